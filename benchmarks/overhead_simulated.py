"""`make bench-overhead-simulated`: CPU per streamed token of this application alone, on the simulated engine.

64 streams of 50 tokens/s and 256 streams of 30 tokens/s, with HAProxy and Serve's throughput options, and as plain
`serve run` gives it. Needs no model. Results: one JSON object per line on standard output, tables on standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import our_stacks, report
from benchmarks.harness.report import Target
from benchmarks.harness.session import Case, Plan, measure_stacks

_RATES = {64: 50.0, 256: 30.0}
"""Tokens per second of each stream, by the number of streams."""
_STEP_AT_0_S = 0.0155556
_STEP_PER_STREAM_S = 0.0000694444
"""A step of 20 ms with 64 streams, and of 33.3 ms with 256."""

_ENGINE = {
    "load_s": 0.1,
    "max_running": 256,
    "prefill_s_per_token": 0.0,
    "decode_base_s": _STEP_AT_0_S,
    "decode_s_per_sequence": _STEP_PER_STREAM_S,
}
_TARGETS_US = {64: 110.0, 256: 90.0}


def main(
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each measured window, in seconds.")] = 4.0,
    repeat: Annotated[int, typer.Option(min=1, help="Measured windows of each case; the median counts.")] = 1,
    stacks: Annotated[
        list[str] | None, typer.Option(help="haproxy+throughput or plain; repeat the option for both (default: both).")
    ] = None,
    streams: Annotated[list[int] | None, typer.Option(help="64 or 256; repeat the option for both (default).")] = None,
    logs: Annotated[Path, typer.Option(help="Folder for the output of the stacks.")] = Path(".bench/logs"),
) -> None:
    """Measure CPU microseconds per streamed token on the simulated engine."""
    chosen = [stack for stack in our_stacks.simulated(_ENGINE) if not stacks or stack.flags in stacks]
    counts = [count for count in _RATES if not streams or count in streams]
    if not chosen or not counts:
        raise typer.BadParameter("nothing left to measure")
    plan = Plan(
        bench="overhead-simulated",
        cases=[Case(count, round(_RATES[count] * seconds)) for count in counts],
        windows=repeat,
        idle_s=1.0,
        first_token_requests=0,
        start_timeout_s=120.0,
        log_dir=logs,
        together=True,
    )
    reports = measure_stacks(chosen, plan)
    report.print_tables(reports)
    report.print_targets(_targets(reports))
    if len(reports) < len(chosen):
        raise typer.Exit(1)


def _targets(reports: list[report.StackReport]) -> list[Target]:
    return [
        Target(f"{case.streams} streams: CPU µs per token", case.us_per_token, _TARGETS_US[case.streams])
        for found in reports
        if found.stack.flags == our_stacks.FAST
        for case in found.loads
    ]


if __name__ == "__main__":
    typer.run(main)
