"""Netflix's Gradient2 concurrency limit, on end-to-end latency: a baseline.

Source: Netflix/concurrency-limits, `Gradient2Limit` (Java, Apache-2.0), with its defaults: initial limit 20, at least
20, at most 200, smoothing 0.2, long window 600, tolerance 1.5, queue size 4. It compares the latest latency with its
long-term exponential mean; for token streams latency is mostly the length of the answer, which is why we do not use it.
"""

from __future__ import annotations

_WARM_UP = 10
"""Samples whose plain mean starts the exponential one, as in the original's `ExpAvgMeasurement`."""


class Gradient2:
    """One limit. Latencies are seconds, from dispatch to the last token."""

    def __init__(
        self,
        initial: float = 20.0,
        least: float = 20.0,
        most: float = 200.0,
        smoothing: float = 0.2,
        window: int = 600,
        tolerance: float = 1.5,
        queue: float = 4.0,
    ) -> None:
        self.limit = initial
        self._least = least
        self._most = most
        self._smoothing = smoothing
        self._window = window
        self._tolerance = tolerance
        self._queue = queue
        self._long = 0.0
        self._samples = 0

    def sampled(self, latency_s: float, in_flight: int) -> None:
        """One request is done; `in_flight` were under way when it began."""
        self._samples += 1
        if self._samples <= _WARM_UP:
            self._long += (latency_s - self._long) / self._samples
        else:
            self._long += (latency_s - self._long) * 2 / (self._window + 1)
        if self._long / latency_s > 2:  # recovering from a long slow period
            self._long *= 0.95
        if in_flight < self.limit / 2:  # limited by the application, not by us
            return
        gradient = max(0.5, min(1.0, self._tolerance * self._long / latency_s))
        wanted = self.limit * gradient + self._queue
        wanted = self.limit * (1 - self._smoothing) + wanted * self._smoothing
        self.limit = max(self._least, min(self._most, wanted))
