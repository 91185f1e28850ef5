"""Open-loop arrivals: nobody waits for an answer before the next one asks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Arrivals at `rate` per second up to `until_s` (virtual seconds)."""

    until_s: float
    rate: float


def poisson(phases: tuple[Phase, ...], rng: random.Random) -> Iterator[float]:
    """Arrival times of a Poisson process whose rate is constant within each phase; a step is two phases.

    Source: the process has no memory, so that at each boundary the next gap is drawn anew at the new rate.
    """
    now = 0.0
    for phase in phases:
        while phase.rate > 0:
            gap = rng.expovariate(phase.rate)
            if now + gap >= phase.until_s:
                break
            now += gap
            yield now
        now = phase.until_s


def bursts(base: float, peak: float, every_s: float, length_s: float, until_s: float) -> tuple[Phase, ...]:
    """Phases at rate `base` with bursts at rate `peak`, one of `length_s` seconds at the end of every `every_s`."""
    phases: list[Phase] = []
    start = 0.0
    while start < until_s:
        phases.append(Phase(start + every_s - length_s, base))
        phases.append(Phase(start + every_s, peak))
        start += every_s
    return tuple(phases)


def evenly(rate: float, number: int) -> Iterator[float]:
    """`number` arrivals, one every 1 / `rate` seconds, as a throttled source makes them."""
    return (index / rate for index in range(number))
