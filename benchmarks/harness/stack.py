"""Start one serving stack, wait until it answers, and end all of it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_POLL_S = 0.25
_STOP_TIMEOUT_S = 30.0
_LOG_TAIL_LINES = 25


class StackFailed(Exception):
    """The stack did not start, or ended while it was measured."""


@dataclass(frozen=True, slots=True)
class Stack:
    """How to start one serving stack.

    `command` gets the HTTP port to listen on (loopback) and a private folder, and returns the command line. A port of
    the stack must answer `POST /v1/chat/completions` for `model`.
    """

    name: str
    flags: str
    """How it is configured, in words: `defaults`, `haproxy+throughput`…"""
    model: str
    command: Callable[[int, Path], list[str]]
    environment: Callable[[Path], Mapping[str, str]] = field(default=lambda _folder: {})
    failure: Callable[[Path], str | None] = field(default=lambda _folder: None)
    """Why the stack, though its processes live, will never answer; None when nothing is known."""

    @property
    def title(self) -> str:
        """Name and flags, as shown to a person."""
        return f"{self.name} ({self.flags})" if self.flags else self.name


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that answers requests."""

    stack: Stack
    port: int
    pid: int
    """Of the supervisor, whose descendants are the stack's processes."""


@contextmanager
def running(stack: Stack, port: int, log: Path, start_timeout_s: float) -> Iterator[RunningStack]:
    """The stack, answering on `port`; its output goes to `log`. Everything it started has ended afterwards.

    Raises `StackFailed`, with the end of the log, if it does not answer within `start_timeout_s` seconds.
    """
    folder = Path(tempfile.mkdtemp(prefix="ob-"))
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tools.supervisor", "--", *stack.command(port, folder)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), **stack.environment(folder)}
    environment.pop("RAY_ADDRESS", None)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _wait_until_it_answers(stack, port, process, folder, start_timeout_s)
            yield RunningStack(stack, port, process.pid)
        except StackFailed as error:
            raise StackFailed(f"{error}\n{_tail(log)}{_keep_serve_logs(folder, log)}") from error
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_it_answers(
    stack: Stack, port: int, process: subprocess.Popen[bytes], folder: Path, timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    last = "nothing listens yet"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StackFailed(f"{stack.title} ended while it started (status {process.returncode})")
        if reason := stack.failure(folder):
            raise StackFailed(f"{stack.title} cannot be deployed: {reason}")
        last = _ask(port, stack.model)
        if last == "ready":
            return
        time.sleep(_POLL_S)
    raise StackFailed(f"{stack.title} did not answer within {timeout_s:.0f} s: {last}")


def _ask(port: int, model: str) -> str:
    """`ready` if a completion of one token succeeds, else what happened instead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        return "ready" if response.status == 200 else f"HTTP {response.status} {text[:200]!r}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return f"Last lines of {log}:\n" + "\n".join(lines)


def _keep_serve_logs(folder: Path, log: Path) -> str:
    """Copy what Serve's controller and replicas wrote next to `log`; a sentence that says where, if there is any."""
    found = folder / "ray" / "session_latest" / "logs" / "serve"
    if not found.is_dir():
        return ""
    kept = log.with_suffix(".serve")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(found, kept)
    return f"\nServe's own logs are in {kept}"
