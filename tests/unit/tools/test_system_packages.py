from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from tools.system_packages import NotInstalled, install


class Machine:
    """What programs there are, and which commands were run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, programs: Sequence[str], root: bool = True) -> None:
        self.commands: list[list[str]] = []
        self.fails = False
        monkeypatch.setattr(
            "tools.system_packages.shutil.which", lambda name, path=None: name if name in programs else None
        )
        monkeypatch.setattr("tools.system_packages.os.geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr("tools.system_packages.subprocess.run", self._run)

    def _run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        return subprocess.CompletedProcess(command, int(self.fails), "E: no such package")


def test_nothing_is_run_where_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ["nginx", "chromium", "apt-get"])
    install(print)
    assert machine.commands == []


def test_only_what_is_missing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ["nginx", "apt-get"])
    install(lambda _: None)
    assert machine.commands[-1][-1] == "chromium"
    assert all("nginx" not in command for command in machine.commands)


def test_without_root_and_sudo_the_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, ["apt-get"], root=False)
    with pytest.raises(NotInstalled, match="nginx chromium"):
        install(print)


def test_sudo_is_used_where_it_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ["apt-get", "sudo", "nginx"], root=False)
    install(lambda _: None)
    assert machine.commands[-1][:2] == ["sudo", "--non-interactive"]


def test_what_apt_get_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ["apt-get"])
    machine.fails = True
    with pytest.raises(NotInstalled, match="no such package"):
        install(lambda _: None)
