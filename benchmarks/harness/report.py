"""Results for people (tables on standard error) and for programs (one JSON object per line on standard output)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.cpu_accounting import ENGINE_CORE
from benchmarks.harness.measure import IdleCase, LoadCase
from benchmarks.harness.stack import Stack

console = Console(stderr=True, width=None if sys.stderr.isatty() else 130)

_QUIET_CORES = 0.15
"""Load of unrelated processes, in cores, above which the figures are worth little."""


@dataclass(frozen=True, slots=True)
class StackReport:
    """All that was measured of one stack."""

    stack: Stack
    idle: IdleCase
    loads: list[LoadCase]
    first_token: LoadCase | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that should not exceed `limit`, and preferably not `aim`."""

    what: str
    measured: float
    limit: float
    aim: float | None = None


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile; `percent` is 0..100."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def case_line(bench: str, report: StackReport, case: LoadCase) -> dict[str, Any]:
    """The JSON object of one case."""
    roles = {role: round(us, 1) for role, us in case.us_by_role().items()}
    engine_core_us = roles.pop(ENGINE_CORE, None)
    return {
        "bench": bench,
        "stack": report.stack.name,
        "flags": report.stack.flags,
        "streams": case.streams,
        "tokens_per_stream": case.tokens_per_stream,
        "us_per_token": round(case.us_per_token, 1),
        "tokens_per_s": round(case.tokens_per_s, 1),
        "ttft_ms_p50": round(percentile(case.ttft_s, 50) * 1e3, 2),
        "ttft_ms_p99": round(percentile(case.ttft_s, 99) * 1e3, 2),
        "us_per_token_with_ray_daemons": round(case.us_per_token_with_ray, 1),
        "us_per_token_windows": [round(window.us_per_token, 1) for window in case.windows],
        "us_per_token_by_role": roles,
        "engine_core_us_per_token": engine_core_us,
        "idle_cpu_ms_per_s": round(report.idle.serving_ms_per_s, 1),
        "frames_per_token": round(case.frames_per_token, 3),
        "client_us_per_token": round(case.client_us, 1),
        "other_cores": round(case.other_cores, 2),
    }


def first_token_line(bench: str, report: StackReport, case: LoadCase) -> dict[str, Any]:
    """The JSON object of the one-request-at-a-time case."""
    return {
        "bench": f"{bench}-first-token",
        "stack": report.stack.name,
        "flags": report.stack.flags,
        "streams": 1,
        "requests": len(case.windows),
        "ttft_ms_p50": round(percentile(case.ttft_s, 50) * 1e3, 2),
        "ttft_ms_p99": round(percentile(case.ttft_s, 99) * 1e3, 2),
        "other_cores": round(case.other_cores, 2),
    }


def print_lines(bench: str, report: StackReport) -> None:
    """Write the stack's JSON lines to standard output."""
    lines = [case_line(bench, report, case) for case in report.loads]
    if report.first_token is not None:
        lines.append(first_token_line(bench, report, report.first_token))
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def print_tables(reports: Sequence[StackReport]) -> None:
    """Show the summary, and where each stack's CPU time went."""
    summary = Table(title="CPU of the serving processes (engine core, client and Ray's node daemons excluded)")
    summary.add_column("stack", no_wrap=True)
    for column in ("streams", "µs/token", "with Ray", "idle ms/s", "tokens/s", "TTFT p50 ms", "p99 ms", "other cores"):
        summary.add_column(column, justify="right")
    for report in reports:
        first = [report.first_token] if report.first_token else []
        for case in [*report.loads, *first]:
            under_load = case is not report.first_token
            summary.add_row(
                report.stack.title,
                str(case.streams) if under_load else "1 (idle)",
                f"{case.us_per_token:.0f}" if under_load else "",
                f"{case.us_per_token_with_ray:.0f}" if under_load else "",
                f"{report.idle.serving_ms_per_s:.0f}",
                f"{case.tokens_per_s:.0f}" if under_load else "",
                f"{percentile(case.ttft_s, 50) * 1e3:.1f}",
                f"{percentile(case.ttft_s, 99) * 1e3:.1f}",
                f"{case.other_cores:.2f}",
            )
    console.print(summary)
    if any(case.other_cores > _QUIET_CORES for report in reports for case in report.loads):
        console.print("The machine was not quiet: other processes inflate CPU per token, and merge or delay tokens.")
    for report in reports:
        console.print(_breakdown(report))


def _breakdown(report: StackReport) -> Table:
    table = Table(title=f"{report.stack.title}: CPU µs per token by process")
    table.add_column("process")
    for case in report.loads:
        table.add_column(f"{case.streams} streams", justify="right")
    table.add_column("idle ms/s", justify="right")
    columns = [case.us_by_role() for case in report.loads]
    idle = {role: seconds / report.idle.wall_s * 1e3 for role, seconds in report.idle.cpu.by_role.items()}
    for role in sorted({role for column in [*columns, idle] for role in column}):
        table.add_row(role, *(f"{column.get(role, 0.0):.1f}" for column in columns), f"{idle.get(role, 0.0):.1f}")
    return table


def print_targets(targets: Sequence[Target]) -> None:
    """Show what was wanted beside what was measured."""
    if not targets:
        return
    table = Table(title="Wanted")
    table.add_column("figure", no_wrap=True)
    for column in ("measured", "at most", "aim"):
        table.add_column(column, justify="right")
    table.add_column("met")
    for target in targets:
        met = "[green]yes[/green]" if target.measured <= target.limit else "[red]no[/red]"
        aim = "" if target.aim is None else f"{target.aim:g}"
        table.add_row(target.what, f"{target.measured:.2f}", f"{target.limit:g}", aim, met)
    console.print(table)
