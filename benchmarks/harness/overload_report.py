"""What a step of load did to a stack: goodput, first tokens and refusals while twice as much is asked for as it can do.

Goodput counts the tokens of answers that came completely and began within the objective, as they flow: those that were
received in the overload phase, divided by its length. (As in Zhong et al., "DistServe: Disaggregating Prefill and
Decoding for Goodput-optimized Large Language Model Serving", OSDI 2024: throughput within the latency objective.)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.harness.open_loop_answer import Answer, End
from benchmarks.harness.report import console, percentile
from benchmarks.harness.stack import Stack


@dataclass(frozen=True, slots=True)
class Step:
    """The load, the same for every stack."""

    base_rate: float
    """Requests per second before the step."""
    factor: float
    """By which it rises."""
    base_s: float
    overload_s: float
    tokens: int
    """Of each answer."""
    objective_s: float
    """To the first token, from the request's arrival."""
    capacity_tokens_per_s: float
    """What `vllm serve` gives with its batch always full."""

    @property
    def end_s(self) -> float:
        """When the last request arrives."""
        return self.base_s + self.overload_s


@dataclass(frozen=True, slots=True)
class OverloadReport:
    """One stack under one step."""

    stack: Stack
    step: Step
    answers: Sequence[Answer]
    other_cores: float = 0.0
    """Cores that processes outside the stack and the client kept busy."""

    def is_good(self, answer: Answer) -> bool:
        """Complete, and begun within the objective."""
        return answer.end is End.ANSWERED and answer.ttft_s is not None and answer.ttft_s <= self.step.objective_s

    @property
    def overload(self) -> list[Answer]:
        """Requests that arrived in the overload phase."""
        return [answer for answer in self.answers if answer.arrival_s >= self.step.base_s]

    @property
    def goodput_tokens_per_s(self) -> float:
        """Good tokens received per second of the overload phase."""
        good = sum(self._tokens_in_overload(answer) for answer in self.answers if self.is_good(answer))
        return good / self.step.overload_s

    @property
    def goodput_ratio(self) -> float:
        """The same, over what `vllm serve` gives with its batch always full."""
        return self.goodput_tokens_per_s / self.step.capacity_tokens_per_s

    @property
    def ttft_ms(self) -> list[float]:
        """First tokens of those that arrived in the overload phase and got one, also if the rest never came."""
        return [answer.ttft_s * 1e3 for answer in self.overload if answer.ttft_s is not None]

    @property
    def base_ttft_ms(self) -> list[float]:
        """First tokens before the step."""
        early = [answer for answer in self.answers if answer.arrival_s < self.step.base_s]
        return [answer.ttft_s * 1e3 for answer in early if answer.ttft_s is not None]

    @property
    def refusal_ms(self) -> list[float]:
        """How long those waited that were refused in the overload phase."""
        return [answer.duration_s * 1e3 for answer in self.overload if answer.end is End.REFUSED]

    def count(self, end: End) -> int:
        """Requests of the overload phase that ended so."""
        return sum(answer.end is end for answer in self.overload)

    @property
    def good(self) -> int:
        """Good answers to requests of the overload phase."""
        return sum(map(self.is_good, self.overload))

    def _tokens_in_overload(self, answer: Answer) -> float:
        """An answer's tokens in the overload phase, as if they came evenly from the first text to the end."""
        assert answer.ttft_s is not None
        first, end = answer.arrival_s + answer.ttft_s, answer.arrival_s + answer.duration_s
        within = min(end, self.step.end_s) - max(first, self.step.base_s)
        if end <= first:
            return float(answer.tokens) if within >= 0 else 0.0
        return answer.tokens * max(0.0, within) / (end - first)


def overload_line(report: OverloadReport) -> dict[str, Any]:
    """The JSON object of one stack."""
    step = report.step
    late_s = [answer.sent_late_s for answer in report.answers]
    return {
        "bench": "overload-peers",
        "stack": report.stack.name,
        "flags": report.stack.flags,
        "base_rate": round(step.base_rate, 2),
        "factor": step.factor,
        "capacity_tokens_per_s": round(step.capacity_tokens_per_s, 1),
        "goodput_tokens_per_s": round(report.goodput_tokens_per_s, 1),
        "goodput_ratio": round(report.goodput_ratio, 3),
        "ttft_ms_p50": _percentile(report.ttft_ms, 50),
        "ttft_ms_p99": _percentile(report.ttft_ms, 99),
        "ttft_ms_p99_before": _percentile(report.base_ttft_ms, 99),
        "offered": len(report.overload),
        "good": report.good,
        "late": report.count(End.ANSWERED) - report.good,
        "refused": report.count(End.REFUSED),
        "refusal_ms_p99": _percentile(report.refusal_ms, 99),
        "failed": report.count(End.FAILED),
        "failed_before": sum(a.end is not End.ANSWERED for a in report.answers if a.arrival_s < step.base_s),
        "objective_s": step.objective_s,
        "client_late_ms_p99": _percentile([each * 1e3 for each in late_s], 99),
        "other_cores": round(report.other_cores, 2),
    }


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return round(percentile(values, percent), 1) if values else None


def print_overload_line(report: OverloadReport) -> None:
    """Write the stack's JSON line to standard output."""
    sys.stdout.write(json.dumps(overload_line(report)) + "\n")
    sys.stdout.flush()


_COLUMNS = {
    "good\ntokens/s": "goodput_tokens_per_s",
    "of\ncapacity": "goodput_ratio",
    "TTFT ms\np50": "ttft_ms_p50",
    "\np99": "ttft_ms_p99",
    "offered": "offered",
    "good": "good",
    "late": "late",
    "failed": "failed",
    "refused": "refused",
    "within ms\np99": "refusal_ms_p99",
}


def print_overload_table(reports: Sequence[OverloadReport]) -> None:
    """All stacks in one table, for people."""
    if not reports:
        return
    step = reports[0].step
    table = Table(
        title=f"{step.base_rate:.1f} requests/s, then {step.factor:g} times as many for {step.overload_s:g} s; "
        f"{step.tokens} tokens each, first token wanted within {step.objective_s:g} s"
    )
    table.add_column("stack", min_width=20)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for report in reports:
        line = overload_line(report)
        flags = report.stack.flags.replace("+", " + ")  # so that the cell can break
        table.add_row(f"{report.stack.name}\n{flags}", *(_cell(line[name]) for name in _COLUMNS.values()))
    console.print(table)
    console.print("From `offered` on: requests that arrived in the overload phase. late: complete, but begun too late.")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}" if value < 10 else f"{value:.0f}"
