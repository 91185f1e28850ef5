"""Judges a soak: what should be flat, constant or zero. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.soak.meter import Sample
from benchmarks.soak.tally import Tally

_FLAT = 0.02
"""Of memory: so much more or less is flat."""
_CONSTANT, _CONSTANT_AT_LEAST = 0.1, 8.0
"""Of tasks, sockets and files: their number follows that of requests, which is never the same for long."""
_WINDOW = 0.2
"""Part of the judged time that is averaged at its begin and at its end."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim, whether it holds, and why."""

    claim: str
    holds: bool
    detail: str


def judge(samples: Sequence[Sample], tally: Tally, warm_up_s: float, end_s: float) -> list[Verdict]:
    """The claims, judged by what the replicas held that lived from `warm_up_s` to `end_s`."""
    return [
        *(_steady(samples, name, warm_up_s, end_s) for name in ("memory_mb", "tasks", "sockets", "files")),
        Verdict("0 streams lost", not tally.lost, _first(tally.lost)),
        Verdict("0 answers wrong", not tally.wrong, _first(tally.wrong)),
        Verdict("0 × 5xx", not tally.errors, _counts(tally.errors)),
    ]


def _steady(samples: Sequence[Sample], name: str, warm_up_s: float, end_s: float) -> Verdict:
    window_s = _WINDOW * (end_s - warm_up_s)
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        if name in sample.values and sample.at_s >= warm_up_s:
            series[sample.who].append((sample.at_s, sample.values[name]))
    changes = {}
    for who, points in series.items():
        first = [value for at_s, value in points if at_s < warm_up_s + window_s]
        last = [value for at_s, value in points if at_s >= end_s - window_s]
        if first and last:  # otherwise it was killed, or started meanwhile
            changes[who] = (statistics.mean(first), statistics.mean(last))
    roles = {who.split(" ")[0] for who in series}
    holds = bool(changes) and {who.split(" ")[0] for who in changes} == roles
    holds = holds and all(_is_steady(name, *change) for change in changes.values())
    shown = ", ".join(f"{who}: {before:.1f} to {after:.1f}" for who, (before, after) in sorted(changes.items()))
    claim = f"memory flat, ± {_FLAT:.0%}" if name == "memory_mb" else f"{name} constant"
    return Verdict(claim, holds, shown or "no replica lived for the whole time")


def _is_steady(name: str, before: float, after: float) -> bool:
    if name == "memory_mb":
        return abs(after / before - 1) <= _FLAT
    return abs(after - before) <= max(_CONSTANT * before, _CONSTANT_AT_LEAST)


def _first(problems: Sequence[str]) -> str:
    return f"{len(problems)}, the first: {problems[0]}" if problems else "none"


def _counts(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in errors.items()) or "none"
