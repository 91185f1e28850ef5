"""Measure several stacks one after the other, with progress and with one stack's failure kept apart from the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import report
from benchmarks.harness.load import LoadClient, LoadFailed
from benchmarks.harness.measure import measure_first_token, measure_idle, measure_load
from benchmarks.harness.ray_cluster import free_ports
from benchmarks.harness.report import StackReport, console
from benchmarks.harness.stack import RunningStack, Stack, StackFailed, running


@dataclass(frozen=True, slots=True)
class Case:
    """One load: `streams` streams of `tokens` tokens each, all at once."""

    streams: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of every stack."""

    bench: str
    cases: Sequence[Case]
    windows: int
    """Measured windows of each case; the median counts."""
    idle_s: float
    first_token_requests: int
    """Requests for the first token when idle; 0 leaves it out."""
    start_timeout_s: float
    log_dir: Path


def measure_stacks(stacks: Sequence[Stack], plan: Plan) -> list[StackReport]:
    """Reports of the stacks that could be measured; why the others could not is told on standard error."""
    reports = []
    for number, stack in enumerate(stacks, start=1):
        say(f"[{number}/{len(stacks)}] {stack.title}: starting")
        log = plan.log_dir / f"{plan.bench}-{stack.name}-{stack.flags}.log".replace(" ", "-")
        try:
            with running(stack, free_ports(1)[0], log, plan.start_timeout_s) as target, LoadClient() as client:
                found = _measure(target, client, plan)
        except (StackFailed, LoadFailed) as error:
            console.print(f"{stack.title}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            continue
        report.print_lines(plan.bench, found)
        reports.append(found)
    return reports


def _measure(target: RunningStack, client: LoadClient, plan: Plan) -> StackReport:
    loads = []
    for case in plan.cases:
        say(f"    {case.streams} streams of {case.tokens} tokens, {plan.windows} times")
        loads.append(measure_load(target, client, case.streams, case.tokens, plan.windows))
    first_token = None
    if plan.first_token_requests:
        say(f"    first token when idle, {plan.first_token_requests} times")
        first_token = measure_first_token(target, client, plan.first_token_requests)
    say(f"    idle for {plan.idle_s:.0f} s")
    return StackReport(target.stack, measure_idle(target, plan.idle_s), loads, first_token)


def say(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
