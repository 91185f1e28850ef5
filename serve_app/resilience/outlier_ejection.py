"""Keeps a slow replica out of service, and lets single requests through to see whether it is fast again.

Sources: Envoy's outlier detection and gRPC's (gRFC A50): ejection for a time that grows with each ejection, never more
than a share of the pool (`max_ejection_percent`; below its panic threshold Envoy uses all hosts). Finagle's failure
accrual: out of service until a probe succeeds, rather than until a time is over, so that a replica that stays slow
never gets its full load back. The share of the pool's traffic that probes may take is bounded too, which is ours: time
alone would make them a large share of little traffic.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.core.interfaces import Rng


class OutlierEjectionConfig(BaseModel):
    """When an ejected replica is probed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe_s: float = Field(default=5.0, gt=0)
    """Seconds until the first probe: a hiccup is over by then. Jittered by ±20 %, so that routers take turns."""
    probe_max_s: float = Field(default=60.0, gt=0)
    """Seconds between probes at most; the interval doubles with each probe that was slow."""
    probe_share: float = Field(default=0.004, gt=0, le=1)
    """Share of the pool's dispatches that probes of one replica may take: 1 in 250 does not move a p99. Waived after
    `probe_max_s` without a probe, and while the rest of the pool is full, when a slow replica is better than none."""


class Ejection:
    """Whether one replica is ejected for slowness, and its probes. Pure and single-threaded; `now` in seconds."""

    def __init__(self, config: OutlierEjectionConfig, rng: Rng) -> None:
        self._config = config
        self._rng = rng
        self.active = False
        """Whether the replica is ejected."""
        self.probing = False
        """Whether a probe is on its way; there is one at a time."""
        self._interval_s = config.probe_s
        self._due_at = 0.0
        self._waived_at = 0.0
        self._pool_dispatches = 0
        self._cold = False
        self._ended_at = -float("inf")

    def eject(self, now: float, pool_dispatches: int, cold: bool) -> None:
        """Take the replica out of service. `pool_dispatches` counts all that the pool was sent so far.

        A `cold` replica needs calls to warm up: its probes come at a steady interval, and one after the other while
        the rest of the pool is full. Otherwise the interval grows with each slow probe, and goes on growing when the
        replica was back for a short while only.
        """
        again = now - self._ended_at < self._config.probe_max_s
        self.active = True
        self.probing = False
        self._cold = cold
        self._interval_s = min(2 * self._interval_s, self._config.probe_max_s) if again else self._config.probe_s
        self._schedule(now, pool_dispatches)

    def probe_due(self, now: float, pool_dispatches: int, pool_is_full: bool) -> bool:
        """Whether one request may be sent now to see how fast the replica is."""
        if self.probing:
            return False
        if now < self._due_at:
            return self._cold and pool_is_full
        within_share = (pool_dispatches - self._pool_dispatches) * self._config.probe_share >= 1
        return within_share or pool_is_full or now >= self._waived_at

    def probe_sent(self) -> None:
        """The probe is on its way."""
        self.probing = True

    def probe_was_slow(self, now: float, pool_dispatches: int) -> None:
        """It was slow, or failed: the replica stays out."""
        self.probing = False
        if not self._cold:
            self._interval_s = min(2 * self._interval_s, self._config.probe_max_s)
        self._schedule(now, pool_dispatches)

    def probe_told_nothing(self) -> None:
        """It was cancelled or refused early: another one may follow at once."""
        self.probing = False

    def end(self, now: float) -> None:
        """The replica is back in service."""
        self.active = False
        self.probing = False
        self._ended_at = now

    def _schedule(self, now: float, pool_dispatches: int) -> None:
        self._due_at = now + self._interval_s * self._rng.uniform(0.8, 1.2)
        self._waived_at = max(self._due_at, now + self._config.probe_max_s)
        self._pool_dispatches = pool_dispatches
