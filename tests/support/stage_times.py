"""Shows how long each stage took: the parts of the test suite, on however many workers.

Seconds are those of workers: with two of them, all stages together may have twice the time on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import pytest

_DEEP = "integration"
"""The folder of `tests` whose folders are stages of their own."""


@dataclass(slots=True)
class _Stage:
    tests: int = 0
    worker_s: float = 0.0
    began_at: float = float("inf")
    ended_at: float = 0.0


def stage_of(test_id: str) -> str:
    """The stage of a test by its id: `unit` for `tests/unit/core/test_x.py::test_y`."""
    _, *folders = PurePath(test_id.partition("::")[0]).parent.parts or ("",)
    depth = 2 if folders[:1] == [_DEEP] else 1
    return "/".join(folders[:depth]) or "other"


class StageTimes:
    """Collects what pytest reports of each test."""

    def __init__(self, began_at: float | None = None) -> None:
        """`began_at` is when pytest started, in seconds since the epoch; now if it is not given."""
        self._began_at = time.time() if began_at is None else began_at
        self._stages: dict[str, _Stage] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for setup, call and teardown of each test, with xdist in the process that leads the workers."""
        stage = self._stages.setdefault(stage_of(report.nodeid), _Stage())
        stage.tests += report.when == "call"
        stage.worker_s += report.duration
        stage.began_at = min(stage.began_at, report.start)
        stage.ended_at = max(stage.ended_at, report.stop)

    def lines(self) -> Iterator[str]:
        """A table, in the order in which the stages began; `from` and `to` are seconds since pytest started."""
        yield f"{'stage':<28}{'tests':>7}{'worker s':>10}{'from':>7}{'to':>7}"
        for name, stage in sorted(self._stages.items(), key=lambda item: item[1].began_at):
            began, ended = stage.began_at - self._began_at, stage.ended_at - self._began_at
            yield f"{name:<28}{stage.tests:>7}{stage.worker_s:>10.0f}{began:>7.0f}{ended:>7.0f}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Shown before pytest's own summary, and only where more than one stage ran."""
        if len(self._stages) > 1:
            terminalreporter.section("time by stage")
            for line in self.lines():
                terminalreporter.write_line(line)
