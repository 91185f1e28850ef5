"""How fast work leaves, and from it when a refused client should come back."""

from __future__ import annotations

import random

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0


class DrainRate:
    """Departures per second, as an exponentially weighted mean of the intervals between them. Pure."""

    def __init__(self, weight: float = 0.1) -> None:
        """`weight` (0..1] is that of the newest interval."""
        self._weight = weight
        self._interval_s: float | None = None
        self._last: float | None = None

    def departed(self, now: float) -> None:
        """One piece of work is done at clock reading `now` (seconds)."""
        if self._last is not None:
            interval = max(now - self._last, 0.0)
            old = self._interval_s
            self._interval_s = interval if old is None else old + self._weight * (interval - old)
        self._last = now

    def retry_after_s(self, ahead: int, rng: random.Random) -> float:
        """Seconds until `ahead` pieces of work will have left, in 1..60, jittered by ±20 %.

        The jitter is the server's: SDKs wait exactly what `Retry-After` says, and would come back all at once.
        """
        expected = (ahead + 1) * self._interval_s if self._interval_s is not None else MIN_RETRY_AFTER_S
        jittered = min(expected, MAX_RETRY_AFTER_S) * rng.uniform(0.8, 1.2)
        return min(max(jittered, MIN_RETRY_AFTER_S * rng.uniform(1.0, 1.4)), MAX_RETRY_AFTER_S)
