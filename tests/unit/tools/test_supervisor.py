from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tools import procfs

_SUPERVISOR = [sys.executable, "-m", "tools.supervisor", "--"]


def _gone(pid: int) -> bool:
    return procfs.read(pid) is None


def test_sigterm_ends_a_process_that_detached_itself() -> None:
    daemonise = "setsid sleep 600 & echo $!; sleep 600"
    process = subprocess.Popen([*_SUPERVISOR, "bash", "-c", daemonise], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    daemon = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert _gone(daemon)


def test_a_process_that_ignores_sigterm_is_killed_when_the_command_ends() -> None:
    stubborn = "exec 3< <(trap '' TERM; echo $BASHPID; exec sleep 600); read pid <&3; echo $pid; exit 3"
    done = subprocess.run([*_SUPERVISOR, "bash", "-c", stubborn], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert _gone(int(done.stdout))


@pytest.mark.parametrize("status", [0, 7])
def test_the_status_of_the_command_is_passed_on(status: int) -> None:
    assert subprocess.run([*_SUPERVISOR, "bash", "-c", f"exit {status}"], timeout=60).returncode == status


def test_an_orphan_stays_below_the_supervisor() -> None:
    orphan = "(sleep 600 & echo $!) ; sleep 600"
    process = subprocess.Popen([*_SUPERVISOR, "bash", "-c", orphan], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    try:
        assert pid in {each.pid for each in procfs.descendants(process.pid)}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
