"""Run one command and own every process that it starts, daemons included.

`python -m tools.supervisor -- COMMAND…` makes itself a child subreaper (prctl(2)), so that processes which detach
themselves (Ray's daemons, HAProxy's workers) stay below it: its tree is exactly the stack that is tested or measured.
It ends the whole tree on SIGTERM, on SIGINT, when the command fails and when its own parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import NoReturn

from tools import procfs

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TERM_GRACE_S = 3.0
_POLL_S = 0.05


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed: this needs Linux")


def _reap() -> None:
    """Collect every ended child, so that its CPU time reaches our counters and no zombie stays."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _signal_all(processes: list[procfs.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def end_tree(grace_s: float = _TERM_GRACE_S) -> None:
    """Ask all descendants to end, wait up to `grace_s` seconds, and kill those that are left."""
    me = os.getpid()
    _signal_all(procfs.descendants(me), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (left := procfs.descendants(me)) and time.monotonic() < deadline:
        _reap()
        time.sleep(_POLL_S)
    while left:
        _signal_all(left, signal.SIGKILL)
        time.sleep(_POLL_S)
        _reap()
        left = procfs.descendants(me)


def _on_signal(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_tree()
    sys.exit(0)


def main() -> int:
    """Run the command after `--`; return its exit status if it ends by itself."""
    command = sys.argv[sys.argv.index("--") + 1 :]
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    process = subprocess.Popen(command)
    status = None
    while status is None:
        pid, raw = os.wait()
        if pid == process.pid:
            status = os.waitstatus_to_exitcode(raw)
    end_tree()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
