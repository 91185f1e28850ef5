"""How fast a backlog is worked off, and from it how long an offer would wait and when a refused client should come
back."""

from __future__ import annotations

import math

from serve_app.core.interfaces import Rng
from serve_app.core.retry_advice import spread_s

_LEAST_EVIDENCE_S = 1.0


class DrainRate:
    """Tokens per second that leave while work waits. Pure and single-threaded; clock readings never run back.

    Only time with a backlog counts: in an underused system departures say how much is asked for, not what could be
    served, and the first burst would be refused for want of a capacity that is there.

    An exponentially weighted rate over that time: decayed tokens divided by equally decayed time. (As the
    bias-corrected mean of Adam, Kingma and Ba 2015: the first seconds weigh fully instead of being pulled towards
    zero.) Bursts are spread over `memory_s`, a standstill lowers the rate while it lasts. Time without backlog leaves
    the rate as it is but takes away weight, so that what is seen after a pause counts more, and long pauses end in "not
    known".
    """

    def __init__(self, memory_s: float = 10.0, idle_memory_s: float = 60.0) -> None:
        """`memory_s`: after so many seconds of backlog old speeds weigh 1/e; `idle_memory_s`: the same without
        backlog."""
        self._memory_s = memory_s
        self._idle_memory_s = idle_memory_s
        self._tokens = 0.0
        self._time_s = 0.0
        self._backlogged = False
        self._at: float | None = None

    def backlogged(self, waiting: bool, now: float) -> None:
        """From `now` on, work waits although an engine could take it some time, or does not. Cheap to repeat."""
        if waiting is not self._backlogged:
            self._advance(now)
            self._backlogged = waiting

    def departed(self, tokens: float, now: float) -> None:
        """Prompt or output tokens were computed. The finer the portions, the steadier the rate."""
        if self._backlogged:
            self._advance(now)
            self._tokens += tokens

    def rate(self, now: float) -> float | None:
        """Tokens per second, above 0; None while too little was seen."""
        self._advance(now)
        if self._time_s < _LEAST_EVIDENCE_S or self._tokens <= 0.0:
            return None
        return self._tokens / self._time_s

    def wait_s(self, tokens_ahead: float, now: float) -> float | None:
        """Seconds until `tokens_ahead` tokens will have left; None when nothing is known of the speed."""
        if tokens_ahead <= 0:
            return 0.0
        rate = self.rate(now)
        return tokens_ahead / rate if rate is not None else None

    def retry_after_s(self, tokens_ahead: float, now: float, rng: Rng) -> float:
        """Seconds until `tokens_ahead` tokens will have left, as advice to a client; 1 to 1.4 s when not known."""
        return rng.uniform(*spread_s(self.wait_s(tokens_ahead, now) or 0.0))

    def _advance(self, now: float) -> None:
        passed = now - self._at if self._at is not None else 0.0
        self._at = now
        if passed <= 0.0:
            return
        if self._backlogged:
            kept = math.exp(-passed / self._memory_s)
            self._time_s = self._time_s * kept + self._memory_s * (1.0 - kept)
        else:
            kept = math.exp(-passed / self._idle_memory_s)
            self._time_s *= kept
        self._tokens *= kept
