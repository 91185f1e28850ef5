"""Puts one running stack under a step of load: open-loop arrivals, the same moments for every stack."""

from __future__ import annotations

import http.client
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness.cpu_accounting import ENGINE_CORE, consumed, snapshot
from benchmarks.harness.load import LoadClient
from benchmarks.harness.load_client import LoadPlan
from benchmarks.harness.measure import measure_load
from benchmarks.harness.open_loop_answer import Answer, End
from benchmarks.harness.open_loop_client import OpenLoopPlan
from benchmarks.harness.overload_report import OverloadReport, Step
from benchmarks.harness.session import say
from benchmarks.harness.stack import RunningStack, StackFailed
from tools import procfs

_WARM_UP = ((4, 16), (16, 32), (32, 32))
"""Streams and tokens of the closed-loop windows before the run: no stack meets its load cold."""
_WARM_UP_TIMEOUT_S = 60.0
_BATCHES = 3
"""One after the other: prompts are computed beside running streams, as under load."""
_SPARE_S = 60.0
"""Beyond which a client that does not end counts as stuck."""


def arrivals(step: Step, seed: int) -> list[float]:
    """Seconds from the begin at which requests arrive: Poisson, at the base rate and then at the higher one."""
    rng = random.Random(seed)
    phases = ((0.0, step.base_s, step.base_rate), (step.base_s, step.end_s, step.factor * step.base_rate))
    found: list[float] = []
    for begin, end, rate in phases:
        at = begin + rng.expovariate(rate)
        while at < end:
            found.append(at)
            at += rng.expovariate(rate)
    return found


def measure_capacity(target: RunningStack, batch: int, tokens: int) -> float:
    """Tokens per second while the engine's batch of `batch` streams is always full, in the better of two windows: what
    disturbs only ever slows.

    Raises `LoadFailed` if any stream is not complete and correct.
    """
    streams = _BATCHES * batch
    say(f"    capacity: {streams} streams of {tokens} tokens through a batch of {batch}, twice")
    with LoadClient() as client:
        windows = measure_load(target, client, streams, tokens, 2).windows
    found = max(window.outcome.tokens / window.outcome.wall_s for window in windows)
    say(f"    {found:.0f} tokens/s, {found / tokens:.1f} requests/s")
    return found


def measure_overload(target: RunningStack, step: Step, seed: int, timeout_s: float, log: Path) -> OverloadReport:
    """Warm the stack up and put it under the step. Each answer in numbers, and what the stack's `/metrics` says
    afterwards, are kept beside `log`."""
    say("    warming up")
    with LoadClient() as client:
        for streams, tokens in _WARM_UP:
            window = LoadPlan(target.port, target.stack.model, streams, tokens, _WARM_UP_TIMEOUT_S)
            client.run(window, lambda: None, lambda: None)
    at_s = arrivals(step, seed)
    say(
        f"    {step.base_rate:.1f} requests/s for {step.base_s:g} s, {step.factor * step.base_rate:.1f} for "
        f"{step.overload_s:g} s, {len(at_s)} in all; then the rest of the answers, each at most {timeout_s:g} s old"
    )
    report = _drive(target, step, OpenLoopPlan(target.port, target.stack.model, step.tokens, at_s, timeout_s))
    log.with_suffix(".answers.json").write_text(json.dumps([asdict(answer) for answer in report.answers]))
    _keep_metrics(target, log.with_suffix(".metrics"))
    for end in (End.REFUSED, End.FAILED):
        for why in sorted({answer.why for answer in report.answers if answer.end is end})[:2]:
            say(f"    some {end}: {why}")
    return report


def _drive(target: RunningStack, step: Step, plan: OpenLoopPlan) -> OverloadReport:
    before, busy, client = snapshot(target.pid), procfs.machine_busy_s(), _children_s()
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.harness.open_loop_client"],
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        timeout=step.end_s + plan.timeout_s + _SPARE_S,
    )
    wall_s = time.perf_counter() - begun
    if done.returncode != 0:
        raise StackFailed(f"the load client failed:\n{done.stderr.strip()}")
    cpu = consumed(before, snapshot(target.pid))
    stack_s = cpu.serving_s + cpu.by_role.get(ENGINE_CORE, 0.0)
    others_s = procfs.machine_busy_s() - busy - stack_s - (_children_s() - client)
    answers = [Answer(**{**each, "end": End(each["end"])}) for each in json.loads(done.stdout)]
    return OverloadReport(target.stack, step, answers, max(0.0, others_s) / wall_s)


def _children_s() -> float:
    """CPU seconds of this process's ended children: the clients."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _keep_metrics(target: RunningStack, path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10.0)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read()
        if response.status == 200:
            path.write_bytes(text)
    except (OSError, http.client.HTTPException) as error:
        say(f"    no /metrics: {error}")
    finally:
        connection.close()
