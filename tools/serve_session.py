"""One run of `serve run`: started, watched until it is ready, and ended with everything that it started."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape

from tools.child_process import ChildProcess
from tools.demo_model import ROOT
from tools.fast_path import LOCAL_GRPC, LOCAL_RAY, PLAIN_HTTP, FastPath
from tools.serve_log import ServeLog
from tools.serve_status import Progress, Stage, look
from tools.serve_target import ServeTarget, StartError

LOOK_EVERY_S = 0.5
PLAIN_LINE_EVERY_S = 15.0
STOP_GRACE_S = 15.0
TRIES = 2


class Interrupted(Exception):
    """Ctrl-C, or SIGTERM."""


class RayTooSlow(StartError):
    """Ray's own processes did not start in the time that Ray gives them."""


class HaproxyFailed(StartError):
    """HAProxy could not be started: nothing can be reached."""


def environment(target: ServeTarget, fast: FastPath | None) -> dict[str, str]:
    """The environment in which Ray starts: one of its own, also where there is a cluster that `RAY_ADDRESS` names."""
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", **LOCAL_RAY}
    ours |= LOCAL_GRPC if target.grpc_is_local else PLAIN_HTTP
    if fast:
        ours |= fast.environment
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    theirs = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**theirs, "PATH": path, **ours}


class ServeSession:
    """Runs `serve run` for one target. Use from the main thread."""

    def __init__(self, target: ServeTarget, fast: FastPath | None, log: ServeLog, console: Console) -> None:
        """`fast` is the HAProxy that Serve starts, if any."""
        self._target = target
        self._fast = fast
        self._log = log
        self._console = console

    def run(self, when_ready: Callable[[], None]) -> None:
        """Serve until interrupted; calls `when_ready` once requests are served.

        Raises `StartError` if it ends, `HaproxyFailed` if that is because of HAProxy.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return self._run_once(when_ready)
            except RayTooSlow:
                if attempt == TRIES:
                    raise
                self._console.print("Ray's processes took longer than the 30 s that it gives them; trying once more")

    def _run_once(self, when_ready: Callable[[], None]) -> None:
        command = [str(Path(sys.executable).with_name("serve")), "run", str(self._target.config)]
        child = ChildProcess(command, environment(self._target, self._fast), self._log.path, ROOT)
        try:
            self._wait_until_ready(child)
            when_ready()
            while not child.wait(timeout_s=1.0):
                self._log.show_new()
            raise self._failure(Progress(Stage.FAILED))
        finally:
            self._stop(child)

    def _wait_until_ready(self, child: ChildProcess) -> None:
        """Show how the start goes on until requests are served."""
        started = time.monotonic()
        next_plain, shown, address = 0.0, "", None
        with httpx.Client(timeout=2.0, trust_env=False) as client, self._console.status("starting Ray") as status:
            while True:
                self._log.show_new()
                address = address or self._log.dashboard_url()
                progress = look(self._target.url, address, client)
                if progress.stage is Stage.READY:
                    break
                if self._fast and self._fast.failure_file.exists():
                    raise HaproxyFailed(self._fast.failure_file.read_text())
                if progress.stage is Stage.FAILED or child.exit_code is not None:
                    raise self._failure(progress)
                elapsed = time.monotonic() - started
                line = f"{progress.stage.value}{f' ({progress.detail})' if progress.detail else ''}"
                status.update(f"{escape(line)}, {elapsed:.0f} s")
                if not self._console.is_terminal and (line != shown or elapsed >= next_plain):
                    self._console.print(f"{escape(line)}, {elapsed:.0f} s")
                    next_plain, shown = elapsed + PLAIN_LINE_EVERY_S, line
                time.sleep(LOOK_EVERY_S)
        self._console.print(f"ready after {time.monotonic() - started:.0f} s")

    def _failure(self, progress: Progress) -> StartError:
        if progress.stage is not Stage.FAILED and self._log.ray_was_too_slow:
            return RayTooSlow(f"Ray did not start: this machine is too busy\n\nmore in {self._log.path}")
        told = progress.detail or f"`serve run` ended:\n{self._log.tail(25)}"
        return StartError(f"not serving\n{told}\n\nmore in {self._log.path}")

    def _stop(self, child: ChildProcess) -> None:
        """End the child and all that it started. A second Ctrl-C skips the waiting."""
        self._console.print("stopping")
        try:
            child.interrupt()
            child.wait(timeout_s=STOP_GRACE_S)
            child.end_all(grace_s=5.0)
        except Interrupted:
            child.end_all(grace_s=0.0)
        self._console.print("stopped; nothing is left running")
