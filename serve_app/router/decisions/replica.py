"""One engine replica as a router's policies see it, and the permit for one attempt at it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from serve_app.core.engine_status import EngineStatus
from serve_app.resilience.adaptive_limit import AdaptiveLimit
from serve_app.resilience.circuit_breaker import BreakerState, CircuitBreaker
from serve_app.resilience.outlier_ejection import Ejection
from serve_app.resilience.slow_start import SlowStart
from serve_app.resilience.slowness import Speed


class AttemptResult(enum.StrEnum):
    """How an attempt at a replica ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The engine failed it."""
    STALLED = "stalled"
    """Its tokens stopped coming."""
    TIMED_OUT = "timed_out"
    """Its first token did not come in time."""
    OVERLOADED = "overloaded"
    """The replica refused it for lack of room; tells nothing of its health."""
    CANCELLED = "cancelled"
    """We or the client ended it; tells nothing."""
    LOST = "lost"
    """The replica was lost with it."""


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """One replica as the metrics show it."""

    engine_id: str
    limit: int
    ramp_fraction: float
    breaker: BreakerState
    ejected: bool
    in_flight: int


@dataclass(slots=True, eq=False)
class Permit:
    """The right to one attempt at one replica; settle it exactly once."""

    engine_id: str
    replica: Replica
    number: int
    dispatched_at: float
    prompt_tokens: int
    generation: int
    """Of the breaker, when the attempt was sent."""
    epoch: int
    """Of the slow start, when the attempt was sent."""
    choices: int = 1
    """Places that it takes."""
    first_token_at: float | None = None
    counted: bool = False
    """The breaker has counted its success already."""
    settled: bool = False


@dataclass(slots=True, eq=False)
class Replica:
    """One replica's policies and this router's count of what it holds. Outlives `forget` while permits are open."""

    status: EngineStatus
    reported_at: float
    limit: AdaptiveLimit
    slow_start: SlowStart
    breaker: CircuitBreaker
    ejection: Ejection
    speed: Speed
    in_flight: int = 0
    in_flight_when_reported: int = 0
    share: int = 1
    """This router's part of the limit."""
    lent: int = 1
    """Attempts this router may hold at most until the next report: its share, and a part of what the others left unused
    at the last one. Once a report: in a burst each router would borrow all of it, and the engine refuse the most."""
    excluded_since: float | None = None
    """Since when it is out of service, for failures or for slowness."""
    unrestricted: bool = False
    """Nothing but its share bounds it. Renewed by every report and review; dropped at once."""
    probe: Permit | None = None
    """The attempt that shows whether an ejected replica is fast again."""

    def report(self, status: EngineStatus, now: float, pace_window_s: float) -> None:
        """Take its newest heartbeat."""
        self.status = status
        self.reported_at = now
        load = status.load
        in_use = status.generations if status.generations > self.in_flight else self.in_flight
        self.limit.reported(load.running, load.waiting, load.kv_cache_usage, in_use, status.capacity, now)
        self.speed.queueing = self.limit.is_full(load.running, load.waiting, load.kv_cache_usage)
        self.speed.stepped(load.steps, load.running, pace_window_s, now)
        self.share = max(1, self.limit.limit // max(1, status.routers))
        self.in_flight_when_reported = self.in_flight
        unused = self.limit.limit - max(status.generations, self.in_flight)
        self.lent = max(self.share, self.in_flight + unused // max(1, status.routers))
        self.review()

    def review(self) -> None:
        """Note whether only the share bounds it, so that the usual case is answered quickly."""
        self.unrestricted = (
            self.excluded_since is None
            and not self.slow_start.ramping
            and self.status.routers <= 1
            and self.status.ready
        )  # fmt: skip

    def exclude(self, now: float) -> None:
        """Take it out of service."""
        self.unrestricted = False
        if self.excluded_since is None:
            self.excluded_since = now

    def include(self, now: float, founders: int) -> None:
        """Back in service, through slow start, with nothing held against it."""
        self.unrestricted = False
        self.excluded_since = None
        self.probe = None
        if not self.breaker.is_closed:
            self.breaker.close(now)
        if self.ejection.active:
            self.ejection.end(now)
        self.speed.clear(now)
        self.slow_start.begin(now, founders)

    def is_live(self, now: float, stale_after_s: float) -> bool:
        """Whether it is ready and has said so lately."""
        return self.status.ready and now - self.reported_at <= stale_after_s

    def room(self, in_flight: int, now: float, stale_after_s: float) -> int:
        """Attempts that limit and ramp still allow, beside `in_flight` ones of this router; may be negative."""
        room = self.share - in_flight
        routers = self.status.routers
        if routers > 1 and now - self.reported_at <= stale_after_s:
            # What other routers leave unused may be used; what they use beyond their share is not there.
            others = max(0, self.status.generations - self.in_flight_when_reported)
            room = min(self.lent, self.limit.limit - others) - in_flight
        if room > 0 and self.slow_start.ramping:
            return min(room, self.slow_start.places(self.share, now))
        return room

    def snapshot(self, now: float) -> ReplicaSnapshot:
        """Its present state, for metrics."""
        return ReplicaSnapshot(
            engine_id=self.status.engine_id,
            limit=self.limit.limit,
            ramp_fraction=self.slow_start.fraction(now),
            breaker=self.breaker.state(now),
            ejected=self.ejection.active,
            in_flight=self.in_flight,
        )
