"""`make bench-hostile`: what a hostile client costs 50 ordinary streams, and what it leaves behind.

50 streams alone, then beside 50 connections that send everything that should not be sent, over HTTP, WebSocket and gRPC
(`http_attacks`, `socket_attacks`, `grpc_attacks`). A short round comes first, so that what is loaded and pooled at
first use counts on both sides of the comparison of memory. Prints the streams' time between tokens of both,
the router's memory before and after, and what the attempts were answered. Exits with 1 unless all is within bounds.
Results: one JSON object on standard output, tables on standard error. Loopback only; stops by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.harness import our_stacks
from benchmarks.harness.load import LoadClient, LoadOutcome
from benchmarks.harness.load_client import LoadPlan
from benchmarks.harness.report import console, percentile
from benchmarks.harness.stack import RunningStack, running
from benchmarks.hostile.client import HostilePlan
from benchmarks.hostile.outcomes import TRY_S, server_errors
from benchmarks.stream_memory import router_kb
from tools.private_ray import free_ports

_STREAMS = 50
_STEP_S = 0.02
_TIMEOUT_S = 60.0
_LEAD_S = 1.0
"""The ordinary streams have begun before the first attempt."""
_FIRST_ROUND_S = 8.0
_SETTLE_S = 45.0
"""After each round: until kept answers are gone, and what the C library holds free was given back."""
_KEEP_S = 10.0
"""Kept answers go after so long, so that memory can come back within the time of a benchmark."""
_MOST_ADDED_MS = 50.0
_MOST_GROWTH = 0.05


def main(
    seconds: Annotated[float, typer.Option(min=5.0, max=600.0, help="How long the hostile client goes on.")] = 60.0,
    only: Annotated[str, typer.Option(help="Only attacks whose names contain this.")] = "",
    logs: Annotated[Path, typer.Option(help="Folder for the output of the application.")] = Path(".bench/logs"),
) -> None:
    """Measure 50 ordinary streams without and beside a hostile client."""
    port, grpc_port = free_ports(2)
    engine = {"load_s": 0.1, "max_running": 512, "prefill_s_per_token": 0.0, "step_s": _STEP_S}
    router = {"replicas": {"slow_start": {"founder_places": 512}}, "retention": {"keep_s": _KEEP_S}}
    stacks = our_stacks.simulated(engine, max_concurrency=512, router=router, grpc_port=grpc_port)
    stack = next(each for each in stacks if each.flags == our_stacks.FAST)
    tokens = round((seconds + _LEAD_S + TRY_S) / _STEP_S)
    with running(stack, port, logs / "hostile.log", 120.0) as served, LoadClient() as load:
        plan = LoadPlan(port, stack.model, _STREAMS, tokens, seconds + _TIMEOUT_S)
        console.print(f"{_STREAMS} ordinary streams alone, {seconds:.0f} s")
        alone = load.run(plan, _nothing, _nothing)
        fresh_kb = router_kb(served.pid)
        console.print(f"a first round of everything, {_FIRST_ROUND_S:.0f} s")
        first = replace(plan, tokens=round((_FIRST_ROUND_S + _LEAD_S + TRY_S) / _STEP_S))
        round_one, _ = _beside(
            load, first, HostilePlan(port, grpc_port, stack.model, _FIRST_ROUND_S, seed=1, only=only)
        )
        if round_one.errors:
            console.print(f"{len(round_one.errors)} of {_STREAMS} streams lost in it, the first: {round_one.errors[0]}")
        time.sleep(_SETTLE_S)
        before_kb = router_kb(served.pid)
        console.print(f"{_STREAMS} beside a hostile client, {seconds:.0f} s")
        hostile = HostilePlan(port, grpc_port, stack.model, seconds, only=only)
        beside, counts = _beside(load, plan, hostile)
        peak_kb = router_kb(served.pid)
        after_kb = _settled_kb(served, before_kb * (1 + _MOST_GROWTH))
    line = _line(alone, beside, counts, (fresh_kb, before_kb, peak_kb, after_kb))
    print(json.dumps(line), flush=True)
    _show(line, counts, beside)
    if not all(line["met"].values()):
        raise typer.Exit(1)


def _beside(load: LoadClient, plan: LoadPlan, hostile: HostilePlan) -> tuple[LoadOutcome, dict[str, dict[str, int]]]:
    """The ordinary streams beside the hostile client, and what that one's attempts were answered."""
    wait = f"import time; time.sleep({_LEAD_S}); from benchmarks.hostile.client import main; main()"
    command = [sys.executable, "-c", wait, json.dumps(asdict(hostile))]
    process: list[subprocess.Popen[str]] = []

    def start() -> None:
        process.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    try:
        outcome = load.try_run(plan, at_start=start)
        told, _ = process[0].communicate(timeout=TRY_S + _TIMEOUT_S)
    finally:
        for each in process:
            each.kill()
    return outcome, json.loads(told)


def _settled_kb(served: RunningStack, wanted_kb: float) -> float:
    """The router's memory once it is back, or after a while."""
    deadline = time.monotonic() + _SETTLE_S
    while (found := router_kb(served.pid)) > wanted_kb and time.monotonic() < deadline:
        time.sleep(1.0)
    return found


def _line(
    alone: LoadOutcome,
    beside: LoadOutcome,
    counts: dict[str, dict[str, int]],
    memory_kb: tuple[float, float, float, float],
) -> dict[str, Any]:
    gaps_ms = [[1e3 * gap for each in outcome.streams for gap in each.gaps_s] for outcome in (alone, beside)]
    # None where no stream was whole.
    p99_ms = [round(percentile(each, 99), 1) if each else None for each in gaps_ms]
    worst_ms = [round(max(each), 1) if each else None for each in gaps_ms]
    late = p99_ms[0] is None or p99_ms[1] is None or p99_ms[1] - p99_ms[0] > _MOST_ADDED_MS
    fresh_kb, before_kb, peak_kb, after_kb = memory_kb
    failures = server_errors(counts)
    return {
        "bench": "hostile",
        "stack": our_stacks.NAME,
        "streams": _STREAMS,
        "attempts": sum(sum(each.values()) for each in counts.values()),
        "token_gap_ms_p99_alone": p99_ms[0],
        "token_gap_ms_p99_beside": p99_ms[1],
        "token_gap_ms_max_alone": worst_ms[0],
        "token_gap_ms_max_beside": worst_ms[1],
        "streams_lost": len(beside.errors),
        "answers_5xx": sum(failures.values()),
        "answers_5xx_by_attack": failures,
        "router_mb_fresh": round(fresh_kb / 1024, 1),
        "router_mb_before": round(before_kb / 1024, 1),
        "router_mb_at_its_end": round(peak_kb / 1024, 1),
        "router_mb_after": round(after_kb / 1024, 1),
        "met": {
            f"token gap p99 at most {_MOST_ADDED_MS:.0f} ms more": not late,
            "0 streams lost": not beside.errors,
            "0 answers of 5xx": not failures,
            f"memory back within {_MOST_GROWTH:.0%}": after_kb <= before_kb * (1 + _MOST_GROWTH),
        },
    }


def _show(line: dict[str, Any], counts: dict[str, dict[str, int]], beside: LoadOutcome) -> None:
    answers = Table("attack", "answers", title="what the hostile client was answered")
    for name, each in counts.items():
        answers.add_row(name, ", ".join(f"{count} x {outcome}" for outcome, count in sorted(each.items())))
    console.print(answers)
    for error in beside.errors[:3]:
        console.print(f"a stream was lost: {error}", markup=False)
    table = Table("", "", title="50 ordinary streams beside a hostile client", show_header=False)
    for name, value in line.items():
        if name not in ("met", "answers_5xx_by_attack"):
            table.add_row(name.replace("_", " "), str(value))
    for name, met in line["met"].items():
        table.add_row(name, "[green]yes[/green]" if met else "[red]no[/red]")
    console.print(table)


def _nothing() -> None:
    pass


if __name__ == "__main__":
    typer.run(main)
