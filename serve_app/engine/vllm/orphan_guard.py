"""Ends child processes when their parent dies, however it dies. Run as a script, it is the process that does so.

vLLM's engine core outlives a parent that is killed, and keeps the GPU's memory. The guard is a small process of its
own session, tied to the parent by a pipe: the pipe's end is the parent's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable


class OrphanGuard:
    """Guards processes of this host. Not thread-safe."""

    def __init__(self) -> None:
        # Isolated and without site packages: it starts in 20 ms and takes 10 MB.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        self._watched: dict[int, str | None] = {}

    @property
    def pid(self) -> int:
        """The guard's own process."""
        return self._process.pid

    def watch(self, pids: Iterable[int]) -> None:
        """Kill these too when this process dies. Pids that are watched already are left out."""
        for pid in pids:
            if pid not in self._watched:
                self._watched[pid] = started_at(pid)
                self._tell(f"{pid} {self._watched[pid]}")

    def kill_watched(self) -> None:
        """Kill what is still there of the watched processes."""
        for pid, started in self._watched.items():
            kill_if_same(pid, started)
        self._watched.clear()

    def close(self) -> None:
        """End the guard without killing anything. Idempotent."""
        if self._process.poll() is None:
            self._tell("release")
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait(timeout=10)

    def _tell(self, line: str) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guard: there is nothing to guard with
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def started_at(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, which tells it from a later one of the same pid."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def kill_if_same(pid: int, started: str | None) -> None:
    """Kill `pid` when it still is the process that started at `started`."""
    if started is None or started_at(pid) != started:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it must outlast the parent, and ends with it anyway
    watched: dict[int, str] = {}
    for line in sys.stdin:
        if line.strip() == "release":
            return
        pid, started = line.split()
        watched[int(pid)] = started
    for pid_to_kill, started in watched.items():
        kill_if_same(pid_to_kill, started)


if __name__ == "__main__":
    _main()
