"""Measure several stacks one after the other, with progress and with one stack's failure kept apart from the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import report
from benchmarks.harness.load import LoadClient, LoadFailed
from benchmarks.harness.measure import measure_first_token, measure_idle, measure_load
from benchmarks.harness.report import StackReport, console
from benchmarks.harness.stack import RunningStack, Stack, StackFailed, running
from tools.private_ray import free_ports


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
    together: bool = False
    """Start all stacks at once and end them at once: quicker, while the idle ones take a little of the machine."""


def measure_stacks(stacks: Sequence[Stack], plan: Plan) -> list[StackReport]:
    """Reports of the stacks that could be measured; why the others could not is told on standard error."""
    groups = [stacks] if plan.together else [[stack] for stack in stacks]
    return [report for group in groups for report in _measure_group(group, plan)]


def _measure_group(stacks: Sequence[Stack], plan: Plan) -> Iterator[StackReport]:
    """Start `stacks` at once, measure them one after the other, end them at once."""
    with ThreadPoolExecutor(len(stacks)) as threads, LoadClient() as client:
        say(f"starting {', '.join(stack.title for stack in stacks)}")
        contexts = [_running(stack, plan) for stack in stacks]
        started = [threads.submit(context.__enter__) for context in contexts]
        try:
            wait(started)
            for stack, start in zip(stacks, started, strict=True):
                try:
                    say(f"{stack.title}:")
                    found = _measure(start.result(), client, plan)
                except (StackFailed, LoadFailed) as error:
                    console.print(f"{stack.title}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
                    continue
                report.print_lines(plan.bench, found)
                yield found
        finally:
            alive = [c for c, start in zip(contexts, started, strict=True) if start.exception() is None]
            list(threads.map(lambda context: context.__exit__(None, None, None), alive))


def _running(stack: Stack, plan: Plan) -> AbstractContextManager[RunningStack]:
    log = plan.log_dir / f"{plan.bench}-{stack.name}-{stack.flags}.log".replace(" ", "-")
    return running(stack, free_ports(1)[0], log, plan.start_timeout_s)


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
