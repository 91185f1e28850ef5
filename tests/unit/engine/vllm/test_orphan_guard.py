from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from serve_app.engine.vllm.orphan_guard import OrphanGuard, kill_if_same, started_at

_SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
_PARENT = """
import sys
from serve_app.engine.vllm.orphan_guard import OrphanGuard
guard = OrphanGuard()
guard.watch([int(sys.argv[1])])
print(guard.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(_SLEEP)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def parent(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[str]]:
    """A process that guards `child`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(child.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def test_watched_process_is_killed_when_the_parent_is(
    child: subprocess.Popen[bytes], parent: subprocess.Popen[str]
) -> None:
    assert parent.stdout is not None
    guard = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL
    psutil.wait_procs([guard], timeout=30)
    assert not guard.is_running()


def test_closed_guard_kills_nothing_and_is_gone(child: subprocess.Popen[bytes]) -> None:
    guard = OrphanGuard()
    guard.watch([child.pid])
    guard.close()
    guard.close()
    assert not psutil.pid_exists(guard.pid)
    assert child.poll() is None


def test_watched_processes_can_be_killed_at_once(child: subprocess.Popen[bytes]) -> None:
    guard = OrphanGuard()
    guard.watch([child.pid])
    guard.kill_watched()
    guard.close()
    assert child.wait(timeout=30) == -signal.SIGKILL


def test_only_the_process_that_started_then_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, signal: killed.append(pid))
    kill_if_same(os.getpid(), "1")
    kill_if_same(os.getpid(), None)
    assert killed == []
    kill_if_same(os.getpid(), started_at(os.getpid()))
    assert killed == [os.getpid()]


def test_process_that_is_gone_has_no_start_and_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    started = started_at(process.pid)
    process.wait()
    assert started_at(process.pid) is None
    kill_if_same(process.pid, started)


def test_start_tells_processes_apart_by_a_number_of_ticks() -> None:
    assert int(started_at(os.getpid()) or "") > 0
