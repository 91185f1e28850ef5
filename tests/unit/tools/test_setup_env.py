from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import setup_env
from tools.setup_env import STAMP, SetupFailed, install, progress_of, reason_of


class FakePip:
    """Stands in for venv and pip; remembers what they were asked for, and fails on request."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.arguments: dict[str, list[str]] = {}
        self.fails_on: str | None = None

    def make_venv(self, venv: Path) -> None:
        self.calls.append("venv")
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "bin" / "python").touch()

    def pip_install(self, _venv: Path, title: str, arguments: list[str], _packages: int) -> None:
        if title == self.fails_on:
            raise SetupFailed("no")
        self.calls.append(title)
        self.arguments[title] = arguments


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(setup_env, "make_venv", fake.make_venv)
    monkeypatch.setattr(setup_env, "pip_install", fake.pip_install)
    return fake


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "cpu.txt").write_text("ray==1\ntorch==2+cpu\n")
    (folder / "gpu.txt").write_text("ray==1\n")
    (folder / "dev.txt").write_text("pytest==9\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return folder


def run(tmp_path: Path, device: str = "cpu", with_dev: bool = False) -> bool:
    return install(device, with_dev, tmp_path / "venv", tmp_path / "requirements", tmp_path / "pyproject.toml")


def test_first_setup_installs_torch_then_the_pins_then_the_project(
    pip: FakePip, tmp_path: Path, requirements: Path
) -> None:
    assert run(tmp_path)
    assert pip.calls == ["venv", "PyTorch", "cpu.txt", "serve_app"]


def test_pins_are_installed_alone_and_compiled_by_who_imports_them(
    pip: FakePip, tmp_path: Path, requirements: Path
) -> None:
    run(tmp_path, with_dev=True)
    for title in ("PyTorch", "cpu.txt", "dev.txt"):
        assert {"--no-deps", "--no-compile"} <= set(pip.arguments[title])


def test_second_setup_does_nothing(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path)
    pip.calls.clear()
    assert not run(tmp_path)
    assert pip.calls == []


def test_test_tools_are_added_without_installing_the_rest_again(
    pip: FakePip, tmp_path: Path, requirements: Path
) -> None:
    run(tmp_path)
    pip.calls.clear()
    assert run(tmp_path, with_dev=True)
    assert pip.calls == ["dev.txt"]


def test_changed_pins_are_installed_into_the_same_environment(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path)
    pip.calls.clear()
    (requirements / "cpu.txt").write_text("ray==2\n")
    assert run(tmp_path)
    assert pip.calls == ["cpu.txt"]


def test_a_changed_project_installs_its_commands_anew(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path)
    pip.calls.clear()
    (tmp_path / "pyproject.toml").write_text("[project.scripts]\n")
    assert run(tmp_path)
    assert pip.calls == ["serve_app"]


def test_a_changed_comment_is_no_change(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path)
    (requirements / "cpu.txt").write_text("# another comment\nray==1\ntorch==2+cpu\n")
    assert not run(tmp_path)


def test_another_device_makes_the_environment_anew(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path, with_dev=True)
    pip.calls.clear()
    assert run(tmp_path, device="gpu", with_dev=True)
    assert pip.calls == ["venv", "gpu.txt", "dev.txt", "serve_app"]


def test_setup_goes_on_where_it_was_cut(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    pip.fails_on = "dev.txt"
    with pytest.raises(SetupFailed):
        run(tmp_path, with_dev=True)
    pip.calls.clear()
    pip.fails_on = None
    assert run(tmp_path, with_dev=True)
    assert pip.calls == ["dev.txt", "serve_app"]


def test_an_unreadable_stamp_counts_as_nothing_installed(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path)
    (tmp_path / "venv" / STAMP).write_text("{")
    pip.calls.clear()
    assert run(tmp_path)
    assert pip.calls[0] == "venv"


def test_stamp_names_the_device(pip: FakePip, tmp_path: Path, requirements: Path) -> None:
    run(tmp_path, device="gpu")
    assert json.loads((tmp_path / "venv" / STAMP).read_text())["device"] == "gpu"


def test_a_missing_cpu_build_of_torch_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKE_TARGET", "run")
    output = "ERROR: No matching distribution found for torch==2.13.0+cpu\n"
    assert "make run TORCH_INDEX_URL=" in reason_of(output)
    assert "torch==2.13.0+cpu" in reason_of(output)


def test_an_unreachable_index_is_explained_whatever_package_it_hits() -> None:
    output = (
        "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/torch/\n"
        "ERROR: No matching distribution found for torch==2.13.0+cpu\n"
    )
    assert "reached no package index" in reason_of(output)


def test_any_other_failure_shows_the_end_of_what_pip_said() -> None:
    output = "".join(f"line {number}\n" for number in range(40)) + "ERROR: disk full"
    reason = reason_of(output)
    assert reason.endswith("ERROR: disk full")
    assert "line 2\n" not in reason


@pytest.mark.parametrize(
    ("output", "installed", "expected"),
    [
        ("", 0, "downloading 0/3"),
        ("Collecting ray==2 (from -r x)\n  Downloading ray.whl (70.1 MB)\n", 0, "downloading 1/3 ray==2 (70.1 MB)"),
        ("Collecting ray==2\nCollecting six==1\nInstalling collected packages: six, ray\n", 2, "unpacking 2/3"),
    ],
)
def test_progress_is_read_from_what_pip_prints(output: str, installed: int, expected: str) -> None:
    assert progress_of(output, 3, installed) == expected


def test_plain_progress_is_repeated_seldom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now: list[float] = [0.0]
    fake_time: Any = type("Time", (), {"monotonic": staticmethod(lambda: now[0])})
    monkeypatch.setattr(setup_env, "time", fake_time)
    line = setup_env.ProgressLine("cpu.txt")
    for second in (0.5, 1.0, 14.0, 16.0):
        now[0] = second
        line.show("downloading")
    line.show("3 packages", last=True)
    assert capsys.readouterr().out.splitlines() == [
        "cpu.txt: downloading, 0 s",
        "cpu.txt: downloading, 16 s",
        "cpu.txt: 3 packages, 16 s",
    ]
