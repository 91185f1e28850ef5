from __future__ import annotations

from pathlib import Path

import pytest

from tools.module_sizes import LIMIT, MEDIAN_LIMIT, main, measure


def write_module(folder: Path, name: str, lines: int) -> None:
    (folder / name).write_text("x = 1\n" * lines)


def test_empty_and_generated_modules_do_not_count(tmp_path: Path) -> None:
    write_module(tmp_path, "__init__.py", 0)
    write_module(tmp_path, "chat_pb2.py", 2000)
    write_module(tmp_path, "small.py", 10)
    assert measure([tmp_path]).lines == {tmp_path / "small.py": 10}


def test_a_module_above_the_limit_fails_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_module(tmp_path, "large.py", LIMIT + 1)
    for number in range(3):
        write_module(tmp_path, f"small{number}.py", 10)
    assert main([str(tmp_path)]) == 1
    assert "large.py: 501 lines: too many" in capsys.readouterr().out


def test_modules_at_the_limits_pass(tmp_path: Path) -> None:
    write_module(tmp_path, "large.py", LIMIT)
    write_module(tmp_path, "a.py", MEDIAN_LIMIT)
    write_module(tmp_path, "b.py", 1)
    assert main([str(tmp_path)]) == 0


def test_a_large_median_fails(tmp_path: Path) -> None:
    write_module(tmp_path, "a.py", MEDIAN_LIMIT + 1)
    assert main([str(tmp_path)]) == 1
