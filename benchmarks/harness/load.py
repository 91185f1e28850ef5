"""The benchmark's side of the load client: one client process, one window at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from benchmarks.harness.load_client import LoadPlan
from benchmarks.harness.stream_record import StreamResult


class LoadFailed(Exception):
    """Some stream was not complete and correct: the measurement is void."""


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """The streams of one window that were complete and correct, and what was wrong with each of the others."""

    wall_s: float
    streams: list[StreamResult]
    errors: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens received over all streams."""
        return sum(stream.tokens for stream in self.streams)


def _nothing() -> None:
    pass


class LoadClient:
    """A context manager around the client process. Not safe to use concurrently."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.load_client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Process id, for accounting of the client's own CPU time."""
        return self._process.pid

    def run(self, plan: LoadPlan, at_start: Callable[[], None], at_end: Callable[[], None]) -> LoadOutcome:
        """Stream the plan, calling `at_start` just before the first request and `at_end` just after the last byte.

        Raises `LoadFailed` if any stream is incomplete, has an error or another number of tokens than asked for.
        """
        outcome = self.try_run(plan, at_start, at_end)
        if outcome.errors:
            shown = "\n  ".join(outcome.errors[:3])
            raise LoadFailed(f"{len(outcome.errors)} of {plan.streams} streams failed:\n  {shown}")
        return outcome

    def try_run(
        self, plan: LoadPlan, at_start: Callable[[], None] = _nothing, at_end: Callable[[], None] = _nothing
    ) -> LoadOutcome:
        """The same where streams may fail."""
        self._write(json.dumps(asdict(plan)))
        self._read()
        at_start()
        self._write("go")
        self._read()
        at_end()
        report = self._read()
        return LoadOutcome(report["wall_s"], [StreamResult(**each) for each in report["results"]], report["errors"])

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed("the load client ended unexpectedly")
        message: dict[str, Any] = json.loads(line)
        return message
