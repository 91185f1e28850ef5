from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools.node_packages import FOLDER, NotInstalled, find_workerd, install


class Npm:
    """Stands in for npm: makes the program, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.runs = 0
        self._fails = fails
        monkeypatch.setattr("tools.node_packages.subprocess.run", self._run)

    def _run(self, command: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        self.runs += 1
        assert "ci" in command, "only `npm ci` takes exactly what is pinned"
        if not self._fails:
            program = cwd / "node_modules" / "@cloudflare" / "workerd-linux-64" / "bin" / "workerd"
            program.parent.mkdir(parents=True, exist_ok=True)
            program.touch()
        return subprocess.CompletedProcess(command, int(self._fails), "npm error: no such package")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package-lock.json").write_text("{}")
    return tmp_path


def test_packages_are_installed_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    npm = Npm(monkeypatch)
    assert find_workerd(folder) is None
    for _ in range(2):
        install(folder, lambda _: None)
    assert npm.runs == 1
    assert find_workerd(folder) is not None


def test_other_pins_are_installed_anew(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    npm = Npm(monkeypatch)
    install(folder, lambda _: None)
    (folder / "package-lock.json").write_text('{"other": 1}')
    install(folder, lambda _: None)
    assert npm.runs == 2


def test_what_npm_says_is_told_and_the_next_run_tries_again(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    Npm(monkeypatch, fails=True)
    with pytest.raises(NotInstalled, match="no such package"):
        install(folder, lambda _: None)
    npm = Npm(monkeypatch)
    install(folder, lambda _: None)
    assert npm.runs == 1


def test_committed_pins_name_no_registry() -> None:
    pins = (FOLDER / "package-lock.json").read_text()
    assert "://" not in pins
    package = json.loads((FOLDER / "package.json").read_text())["devDependencies"]["workerd"]
    assert json.loads(pins)["packages"]["node_modules/workerd"]["version"] == package
