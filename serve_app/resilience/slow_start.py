"""Raises the load of a new, restarted or recovered replica step by step, as it shows that it is warm.

Sources: Envoy's slow start mode (weight grows with `(age / window) ** (1 / aggression)`; its docs say that it helps
little when all endpoints are new) and AWS ALB's `slow_start.duration_seconds` (share grows linearly with age). Both
look at age alone: a replica whose first calls are slow gets its full share all the same. Here successes count as well,
each one allowing one more call or more, as in TCP's slow start (V. Jacobson, "Congestion Avoidance and Control", 1988).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SlowStartConfig(BaseModel):
    """How fast a replica gets its full share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ramp_s: float = Field(default=10.0, gt=0)
    """Seconds until age alone would allow the full share. LLM engines warm up within their first batches; longer leaves
    a replica that was started for lack of capacity unused."""
    ramp_successes: int = Field(default=16, ge=1)
    """First tokens, none of them slow beside the rest of the pool, until successes alone would allow the full share."""
    founder_places: int = Field(default=4, ge=1)
    """Calls that replicas may be sent at once, together, when they are all new (founders): nobody else can take the
    load then, so age does not count for them, and each round of successes about triples what they are sent."""
    founder_fraction: float = Field(default=0.03125, ge=0, le=1)
    """Share of its limit that each founder gets at once, if that is more."""
    warm_tokens: int = Field(default=1000, ge=1)
    """Output tokens that an engine must have generated to count as warm although this router sees it for the first
    time: a router that starts beside busy engines need not warm them."""


class SlowStart:
    """The ramp of one replica. Pure and single-threaded; `now` is in seconds.

    It bounds what was started since the ramp began, not what still runs from before: a recovered replica with long
    streams is not kept idle until they end.
    """

    def __init__(self, config: SlowStartConfig) -> None:
        self._config = config
        self._began_at = 0.0
        self._founders = 0
        self._successes = 0
        self._in_flight = 0
        self.epoch = 0
        """Counts the ramps; a call belongs to the ramp in which it was started."""
        self.ramping = False
        """Whether the replica has not reached its full share yet."""

    def begin(self, now: float, founders: int) -> None:
        """The replica is new, restarted or recovered: start over.

        `founders` is the number of new replicas, this one included, that have no established one beside them; 0 when
        there is an established one.
        """
        self.epoch += 1
        self.ramping = True
        self._began_at = now
        self._founders = founders
        self._successes = 0
        self._in_flight = 0

    def adopt(self, founders: int) -> None:
        """No replica is established any more: this one is one of `founders` from now on."""
        self._founders = founders

    def fraction(self, now: float) -> float:
        """How far the ramp is, 0..1."""
        if not self.ramping:
            return 1.0
        by_success = min(self._successes / self._config.ramp_successes, 1.0)
        if self._founders:
            return by_success
        return min((now - self._began_at) / self._config.ramp_s, by_success)

    def places(self, share: int, now: float) -> int:
        """Calls that may be started now, of a full share of `share` calls. At least one may always be in flight."""
        if not self.ramping:
            return share - self._in_flight
        config = self._config
        by_success = max(1 + self._successes, int(share * self._successes / config.ramp_successes))
        if self._founders:
            at_once = max(config.founder_places // self._founders, int(share * config.founder_fraction))
            allowed = max(by_success + self._successes, at_once)
        else:
            allowed = min(by_success, max(1, int(share * (now - self._began_at) / config.ramp_s)))
        return min(allowed, share) - self._in_flight

    def dispatched(self, places: int = 1) -> int:
        """A call that takes so many `places` was started; returns the epoch to settle it with."""
        self._in_flight += places
        return self.epoch

    def settled(self, epoch: int, places: int = 1) -> None:
        """A call that was started in `epoch` has ended. Report each call once."""
        if epoch == self.epoch:
            self._in_flight -= places

    def succeeded(self, epoch: int, now: float) -> None:
        """A call of `epoch` showed a working replica that is not slow. Report each call once."""
        if self.ramping and epoch == self.epoch:
            self._successes += 1
            if self.fraction(now) >= 1.0:
                self.ramping = False

    def aged(self, now: float) -> None:
        """Time has passed: end the ramp if it is complete."""
        if self.ramping and self.fraction(now) >= 1.0:
            self.ramping = False
