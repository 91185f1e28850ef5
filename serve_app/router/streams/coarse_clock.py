"""The time, as exactly as reading it once per batch of events allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CoarseClock:
    """Set by the router with each tick and batch: reading the real clock for each token costs more than it gives."""

    now: float
    """Clock reading in seconds, at most a tick old."""
