"""What people and programs read of a run: tables on standard error, one JSON object per line on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.overload.gates import GATES, Check, Results
from benchmarks.overload.measure import percentile
from benchmarks.overload.policies import OURS

console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)


@dataclass(frozen=True)
class Judged:
    """A workload's results and what our gate says of them; no checks where there is no gate or it was not asked."""

    name: str
    title: str
    results: Results
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return all(check.holds for check in self.checks)


def judge(name: str, title: str, results: Results, complete: bool) -> Judged:
    """`complete` says that all policies that gates need were run."""
    gate = GATES.get(name)
    return Judged(name, title, results, gate(results) if gate is not None and complete else [])


def line(judged: Judged, policy: str) -> dict[str, Any]:
    """The JSON object of one policy. `gate` is null for baselines and where no gate was judged."""
    found = judged.results.by_policy[policy]
    return {
        "bench": "overload",
        "workload": judged.name,
        "policy": policy,
        "success": _rounded(found.success),
        "goodput_ratio": _rounded(judged.results.goodput_ratio(policy)),
        "ttft_p99_s": _rounded(percentile(found.ttft_s, 99)),
        "load_ratio": _rounded(found.load_ratio),
        "lost_tokens": found.lost_tokens,
        "repeated_tokens": found.repeated_tokens,
        "gate": judged.passed if policy == OURS and judged.checks else None,
    }


def no_load_line(check: Check) -> dict[str, Any]:
    """The JSON object of the row without load, where only a cost is measured."""
    nothing = ("success", "goodput_ratio", "ttft_p99_s", "load_ratio", "lost_tokens", "repeated_tokens")
    row: dict[str, Any] = {"bench": "overload", "workload": "no_load", "policy": OURS}
    return {**row, **dict.fromkeys(nothing), "decision_us": _rounded(check.value), "gate": check.holds}


def print_line(row: dict[str, Any]) -> None:
    """Write one JSON object to standard output."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def table(judged: Judged) -> Table:
    """All policies of one workload."""
    runs = max(found.runs for found in judged.results.by_policy.values())
    made = Table(title=f"{judged.name}: {judged.title} ({runs} seeds)", title_justify="left")
    made.add_column("policy", no_wrap=True)
    for column in (
        "success",
        "goodput / oracle",
        "TTFT p50 s",
        "p99 s",
        "TPOT p99 ms",
        "refused",
        "load",
        "lost",
        "gate",
    ):
        made.add_column(column, justify="right")
    for policy, found in judged.results.by_policy.items():
        gate = ""
        if policy == OURS and judged.checks:
            gate = "[green]holds[/green]" if judged.passed else "[red]fails[/red]"
        made.add_row(
            policy,
            f"{found.success:.2%}",
            _shown(judged.results.goodput_ratio(policy), "{:.1%}"),
            _shown(percentile(found.ttft_s, 50), "{:.2f}"),
            _shown(percentile(found.ttft_s, 99), "{:.2f}"),
            _shown(percentile(found.tpot_s, 99) * 1e3, "{:.0f}"),
            str(found.refused),
            f"{found.load_ratio:.3f}",
            str(found.lost_tokens),
            gate,
            style="bold" if policy == OURS else None,
        )
    return made


def gate_table(rows: Sequence[tuple[str, Check]]) -> Table:
    """Every check of every gate."""
    made = Table(title="Gates", title_justify="left")
    made.add_column("workload", no_wrap=True)
    made.add_column("figure", no_wrap=True)
    for column in ("measured", "bound", "holds"):
        made.add_column(column, justify="right")
    for workload, check in rows:
        holds = "[green]yes[/green]" if check.holds else "[red]no[/red]"
        bound = f"{'≥' if check.at_least else '≤'} {check.limit:g}"
        made.add_row(workload, check.what, f"{check.value:.4g}", bound, holds)
    return made


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)


def _shown(value: float | None, pattern: str) -> str:
    return "" if value is None or math.isnan(value) else pattern.format(value)
