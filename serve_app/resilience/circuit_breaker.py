"""Stops sending to a replica that fails, and finds out with a few calls when it works again.

Sources: M. Nygard, "Release It!", 2007 (the pattern); resilience4j `CircuitBreaker` (failure rate over a time window
with a minimum of calls, a bounded number of half-open calls; its issue 903 shows why a call that tells nothing must
give its half-open place back); Finagle `FailureAccrualFactory` (a run of failures trips it at once, the time out of
service grows and is jittered). Generations are ours: what was sent before a change of state cannot cause another one.
"""

from __future__ import annotations

import enum
import math

from pydantic import BaseModel, ConfigDict, Field

from serve_app.core.interfaces import Rng

HALF_OPEN_STAGES = (1, 2, 4)
"""Calls that must succeed, stage after stage, before a half-open breaker closes."""


class BreakerState(enum.StrEnum):
    """What a breaker lets through: everything, nothing, or a few calls that decide."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreakerConfig(BaseModel):
    """When a breaker opens, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    consecutive_failures: int = Field(default=5, ge=1)
    """Failures in a row that open it. Finagle's default: at 10 % of random failures five in a row come once in 100,000
    calls, while a dead replica is left after five calls."""
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of failures within the window that opens it, however they are spread; resilience4j's default."""
    min_calls: float = Field(default=10.0, ge=1)
    """Calls that the window must hold before the share counts: fewer say little."""
    window_s: float = Field(default=10.0, gt=0)
    """Time constant in seconds with which calls are forgotten. Longer remembers faults of calmer times."""
    open_s: float = Field(default=2.0, gt=0)
    """Seconds that it stays open at first: about what a replacement process needs to appear. Doubles each time that it
    opens again; jittered by ±20 %, so that routers do not probe in step."""
    open_max_s: float = Field(default=60.0, gt=0)
    """Seconds that it stays open at most; also the time after which earlier openings are forgotten."""


class CircuitBreaker:
    """The breaker of one replica, as one router sees it. Pure and single-threaded; `now` never runs back.

    Every call carries the generation in which it was acquired, and is reported back once by `succeeded`, `failed` or
    `abandoned`. Reports of another generation than the present one are ignored.
    """

    def __init__(self, config: CircuitBreakerConfig, rng: Rng) -> None:
        self._config = config
        self._rng = rng
        self._state = BreakerState.CLOSED
        self.is_closed = True
        """Whether it lets everything through."""
        self.generation = 0
        """Counts the changes of state."""
        self._calls = 0.0
        self._failures = 0.0
        self._counted_at = 0.0
        self._in_a_row = 0
        self._openings = 0
        self._open_until = 0.0
        self._closed_at = 0.0
        self._stage = 0
        self._acquired = 0
        self._succeeded = 0

    def state(self, now: float) -> BreakerState:
        """The state at `now`; an open breaker becomes half-open when its time is over."""
        if self._state is BreakerState.OPEN and now >= self._open_until:
            self._change(BreakerState.HALF_OPEN)
            self._stage = 0
        return self._state

    def places(self, now: float) -> int | None:
        """Calls that may be acquired now; None: any number."""
        state = self.state(now)
        if state is BreakerState.CLOSED:
            return None
        if state is BreakerState.OPEN:
            return 0
        return HALF_OPEN_STAGES[self._stage] - self._acquired

    def acquire(self, now: float) -> int:
        """Reserve a call; returns its generation. Whoever goes beyond `places` is not counted as a probe."""
        if self.is_closed:
            return self.generation
        if self.state(now) is BreakerState.HALF_OPEN and self._acquired < HALF_OPEN_STAGES[self._stage]:
            self._acquired += 1
            return self.generation
        return -1

    def succeeded(self, generation: int, now: float) -> bool:
        """A call of `generation` worked. Returns whether that closed the breaker."""
        if generation != self.generation:
            return False
        if self.is_closed:
            self._count(now)
            self._in_a_row = 0
            return False
        self._succeeded += 1
        if self._succeeded < HALF_OPEN_STAGES[self._stage]:
            return False
        if self._stage + 1 < len(HALF_OPEN_STAGES):
            self._stage += 1
            self._acquired = self._succeeded = 0
            return False
        self.close(now)
        return True

    def failed(self, generation: int, now: float, may_open: bool = True) -> bool:
        """A call of `generation` failed. Returns whether that opened the breaker.

        `may_open=False` keeps a closed breaker closed: too much of the pool is out of service already.
        """
        if generation != self.generation:
            return False
        if self.is_closed:
            self._count(now)
            self._failures += 1
            self._in_a_row += 1
            if not may_open or not self.should_open:
                return False
            if now - self._closed_at >= self._config.open_max_s:
                self._openings = 0
        self._open(now)
        return True

    @property
    def should_open(self) -> bool:
        """Whether the failures seen while closed are enough to open it."""
        return self._in_a_row >= self._config.consecutive_failures or (
            self._calls >= self._config.min_calls and self._failures >= self._config.failure_rate * self._calls
        )

    def abandoned(self, generation: int) -> None:
        """A call of `generation` ended without telling anything, as by cancellation: its place is free again."""
        if generation == self.generation and self._state is BreakerState.HALF_OPEN:
            self._acquired -= 1

    def close(self, now: float) -> None:
        """Let everything through again, with nothing held against the replica."""
        self._change(BreakerState.CLOSED)
        self._closed_at = now
        self._calls = self._failures = 0.0
        self._in_a_row = 0

    def _open(self, now: float) -> None:
        self._change(BreakerState.OPEN)
        open_s = min(self._config.open_s * 2.0 ** min(self._openings, 30), self._config.open_max_s)
        self._open_until = now + open_s * self._rng.uniform(0.8, 1.2)
        self._openings += 1

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self.is_closed = state is BreakerState.CLOSED
        self.generation += 1
        self._acquired = self._succeeded = 0

    def _count(self, now: float) -> None:
        elapsed_s = now - self._counted_at
        if elapsed_s > 0.01 * self._config.window_s:
            decay = math.exp(-elapsed_s / self._config.window_s)
            self._counted_at = now
            self._calls *= decay
            self._failures *= decay
        self._calls += 1
