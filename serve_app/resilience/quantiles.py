"""Quantiles of recent observations, in bounded space and cheap enough for every request."""

from __future__ import annotations

import math
from collections import deque

_REFRESH_S = 1.0
"""A sorted view older than this is renewed when it is asked for, so that slow traffic and expiry are seen too."""
_NEW_SHARE = 16
"""It is renewed as well once one in this many of its observations is new: sorting then costs a constant each."""


class RecentQuantiles:
    """The last `size` observations of the last `max_age_s` seconds. Pure and single-threaded.

    A sliding window, sorted lazily. It is chosen over streaming estimators (P², Jain & Chlamtac 1985; t-digest, Dunning
    2019) because those remember for ever, and what counts here is how replicas are now. `learn` takes well below a
    microsecond; a query sorts at most once in `size`/16 observations or once a second, and otherwise reads a list.
    Clock readings must not run back.
    """

    def __init__(self, size: int = 256, max_age_s: float = 300.0) -> None:
        """`size` bounds memory and sets the finest quantile, 1 - 1/`size`."""
        self._recent: deque[tuple[float, float]] = deque(maxlen=size)
        self._max_age_s = max_age_s
        self._ordered: list[float] = []
        self._ordered_at = -math.inf
        self._new = 0

    def learn(self, value: float, now: float) -> None:
        """Take one observation, made at clock reading `now` (seconds)."""
        self._recent.append((now, value))
        self._new += 1

    def count(self, now: float) -> int:
        """Observations that a query at `now` rests on."""
        return len(self._sorted(now))

    def quantile(self, q: float, now: float) -> float | None:
        """The `q`-quantile (0 < q ≤ 1) by nearest rank, always a value that was observed; None without any."""
        ordered = self._sorted(now)
        return ordered[max(math.ceil(q * len(ordered)) - 1, 0)] if ordered else None

    def _sorted(self, now: float) -> list[float]:
        if self._new * _NEW_SHARE > len(self._ordered) or now - self._ordered_at >= _REFRESH_S:
            while self._recent and now - self._recent[0][0] > self._max_age_s:
                self._recent.popleft()
            self._ordered = sorted(value for _, value in self._recent)
            self._ordered_at = now
            self._new = 0
        return self._ordered
