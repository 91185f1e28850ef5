"""Runs one command with everything that it starts, and ends all of it: nothing is left behind.

Ray's daemons detach from the process that started them. As their subreaper we stay their ancestor, so what is still
alive at the end can be found and ended without touching anything that somebody else started. Linux only.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def _prepare_child() -> None:
    """Runs in the child, before the command: it dies with us, and can be interrupted."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    # A shell starts what ends in `&` with these ignored, and a child inherits that: Python and Ray would then never
    # see Ctrl-C, nor what `interrupt` sends.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class ChildProcess:
    """A command in a session of its own, so that Ctrl-C reaches it only through `interrupt`. Use from one thread."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Path, cwd: Path) -> None:
        """Start `command` with its output in the file `output`."""
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        with output.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end_all(self, grace_s: float) -> int:
        """End what is left of it and its descendants: SIGTERM, after `grace_s` SIGKILL. Returns how many were left."""
        left = psutil.Process().children(recursive=True)
        for process in left:
            _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(left, timeout=grace_s)
        while alive := [*alive, *psutil.Process().children(recursive=True)]:
            for process in alive:
                _signal(process, signal.SIGKILL)
            psutil.wait_procs(alive, timeout=5)
            alive = []
        return len(left)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
