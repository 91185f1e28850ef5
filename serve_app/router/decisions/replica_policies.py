"""What one router may send to each engine replica of a model: limit, slow start, breaker and ejection, put together."""

from __future__ import annotations

from serve_app.core.engine_status import EngineStatus
from serve_app.core.interfaces import Rng
from serve_app.resilience.adaptive_limit import AdaptiveLimit
from serve_app.resilience.circuit_breaker import CircuitBreaker
from serve_app.resilience.outlier_ejection import Ejection
from serve_app.resilience.slow_start import SlowStart
from serve_app.resilience.slowness import Slowness
from serve_app.router.decisions.config import ReplicaPoliciesConfig
from serve_app.router.decisions.replica import AttemptResult, Permit, Replica, ReplicaSnapshot
from serve_app.router.decisions.replica_set import ReplicaSet

__all__ = [
    "AttemptResult",
    "Permit",
    "ReplicaPolicies",
    "ReplicaSnapshot",
]

_REVIEW_S = 0.1
_FULL_S = 1.0
"""A pool is short of places when it had none for so long; a small one has none now and then."""


_TELL_NOTHING = frozenset({AttemptResult.OVERLOADED, AttemptResult.CANCELLED})


class ReplicaPolicies:
    """All replicas of one model, as one router sees them. Pure and single-threaded; `now` (seconds) never runs back.

    Promises: at most half of the ready replicas are out of service (Envoy's `max_ejection_percent`), and never all that
    report, so that a pool with a live replica and nothing in flight has an allowance somewhere. A replica that is
    forgotten takes its open permits with it: settling them moves nothing else.
    """

    def __init__(self, config: ReplicaPoliciesConfig, rng: Rng) -> None:
        self._config = config
        self._rng = rng
        self._stale_after_s = config.stale_after_s
        self._pool = ReplicaSet(config.stale_after_s)
        self._replicas = self._pool.replicas
        self._slowness = Slowness(config.slowness)
        self._dispatches = 0
        self._full_since = 0.0
        self._pool_is_full = False
        self._review_at = 0.0

    # --- what is there

    def reported(self, status: EngineStatus, now: float) -> None:
        """Take a heartbeat. A new replica joins; one whose counters ran back has restarted and starts over."""
        replica = self._replicas.get(status.engine_id)
        if replica is None:
            replica = self._join(status, now)
        else:
            before = replica.status
            if (
                status.load.steps < before.load.steps
                or status.load.generated_tokens < before.load.generated_tokens
            ):  # fmt: skip
                replica.limit = AdaptiveLimit(self._config.limit, status.capacity, now)
                self._pool.start_over(replica, now)
            elif status.ready and not before.ready:
                self._pool.start_over(replica, now)
            if status.ready != before.ready:
                self._review_at = now
        replica.report(status, now, self._config.slowness.pace_window_s)

    def forget(self, engine_id: str) -> None:
        """The replica is gone for good. Its permits may still be settled."""
        if self._replicas.pop(engine_id, None) is not None:
            self._review_at = 0.0

    # --- what may be sent

    def allowance(self, engine_id: str, in_flight: int, now: float) -> int:
        """Attempts that this router may still send the replica, which holds `in_flight` of them now; 0: none."""
        if now >= self._review_at:
            self.watch(now)
        replica = self._replicas.get(engine_id)
        if replica is None:
            return 0
        if replica.unrestricted:
            return replica.share - in_flight if replica.share > in_flight else 0
        if not replica.status.ready:
            return 0
        room = replica.room(in_flight, now, self._stale_after_s)
        if room > 0 and replica.excluded_since is not None:
            room = min(room, self._probes(replica, now))
        return room if room > 0 else 0

    def allows(self, engine_id: str, in_flight: int, choices: int, now: float) -> bool:
        """Whether an attempt of so many `choices` may be sent now.

        It takes a place for each. One that needs more than half of this router's share gets along with half: it may
        never find more free at once, and those behind it wait for it.
        """
        room = self.allowance(engine_id, in_flight, now)
        if choices == 1 or room == 0:
            return room > 0
        return room >= min(choices, max(1, self._replicas[engine_id].share // 2))

    def dispatched(self, engine_id: str, now: float, prompt_tokens: int = 0, choices: int = 1) -> Permit:
        """Reserve one attempt, at the moment of the check; raises `KeyError` for an unknown replica.

        `prompt_tokens` (an estimate will do) tells how long its first token may take before it counts as late.
        """
        replica = self._replicas[engine_id]
        self._dispatches = number = self._dispatches + 1
        generation = replica.breaker.acquire(now)
        epoch = replica.slow_start.dispatched(choices)
        permit = Permit(engine_id, replica, number, now, prompt_tokens, generation, epoch, choices)
        replica.in_flight += choices
        replica.speed.awaiting[number] = (now, prompt_tokens)
        if replica.ejection.active and replica.ejection.probe_due(now, number, self._pool_is_full):
            replica.ejection.probe_sent()
            replica.probe = permit
        return permit

    # --- what came of it

    def first_token(self, permit: Permit, ttft_s: float, uncached_prompt_tokens: int, now: float) -> None:
        """The first token came `ttft_s` seconds after the dispatch; so many prompt tokens were not in the prefix cache.

        Where that number is only known as the whole prompt, replicas without the prefixes of others look slow.
        """
        if permit.settled or permit.first_token_at is not None:
            return
        permit.first_token_at = now
        replica = permit.replica
        replica.speed.awaiting.pop(permit.number, None)
        if replica.slow_start.ramping and not self._slowness.is_slow_first_token(ttft_s, uncached_prompt_tokens):
            replica.slow_start.succeeded(permit.epoch, now)
        self._slowness.first_token(replica.speed, ttft_s, uncached_prompt_tokens, now)
        replica.limit.first_token(ttft_s, uncached_prompt_tokens)
        if not replica.breaker.is_closed:
            # A stream may go on for minutes: that it began is enough to let the next ones try.
            self._succeeded(permit, now)
        if permit is replica.probe and self._is_late_probe(ttft_s, uncached_prompt_tokens):
            self._probe_was_slow(replica, now)

    def settled(self, permit: Permit, result: AttemptResult, now: float, tpot_s: float | None = None) -> None:
        """The attempt is over. `tpot_s`: mean seconds per output token after the first. A second call does nothing."""
        if permit.settled:
            return
        permit.settled = True
        replica = permit.replica
        replica.in_flight -= permit.choices
        replica.slow_start.settled(permit.epoch, permit.choices)
        if tpot_s is not None:
            replica.speed.tpot.append((now, tpot_s, 0))
        if result is AttemptResult.SUCCEEDED:
            if permit.first_token_at is None:
                replica.speed.awaiting.pop(permit.number, None)
                replica.slow_start.succeeded(permit.epoch, now)
            self._succeeded(permit, now)
            if permit is replica.probe:
                self._judge_probe(replica, tpot_s is not None and self._slowness.is_slow_tpot(tpot_s), now)
        else:
            self._ended_without_success(permit, result, now)

    def watch(self, now: float) -> None:
        """Look for slow replicas, by what they run as well as by what they did.

        Call it every tick; whoever asks what may be sent does so when it is overdue.
        """
        self._review_at = now + _REVIEW_S
        serving = self._pool.serving(now)
        for replica in serving:
            replica.slow_start.aged(now)
            replica.speed.unproven = replica.slow_start.ramping
        for speed in self._slowness.find_slow([r.speed for r in serving], now):
            replica = next(r for r in serving if r.speed is speed)
            if self._pool.may_exclude(replica, now):
                replica.ejection.eject(now, self._dispatches, speed.unproven)
                replica.exclude(now)
        for replica in self._replicas.values():
            if replica.probe is not None:
                self._watch_probe(replica, replica.probe, now)
        self._pool.keep_half_in_service(now)
        serving = self._pool.serving(now)
        if all(r.slow_start.ramping for r in serving):
            for replica in serving:
                replica.slow_start.adopt(len(serving))
        for replica in serving:
            replica.review()
        if any(r.room(r.in_flight, now, self._stale_after_s) > 0 for r in serving):
            self._full_since = now
        self._pool_is_full = now - self._full_since >= _FULL_S

    def snapshot(self, now: float) -> list[ReplicaSnapshot]:
        """All replicas, for metrics."""
        return [replica.snapshot(now) for replica in self._replicas.values()]

    # --- joining

    def _join(self, status: EngineStatus, now: float) -> Replica:
        config = self._config
        replica = Replica(
            status,
            now,
            AdaptiveLimit(config.limit, status.capacity, now),
            SlowStart(config.slow_start),
            CircuitBreaker(config.breaker, self._rng),
            Ejection(config.ejection, self._rng),
            self._slowness.new_speed(),
        )
        if status.load.generated_tokens < config.slow_start.warm_tokens:
            replica.slow_start.begin(now, self._pool.founders_with(replica, now))
        self._replicas[status.engine_id] = replica
        self._review_at = now
        return replica

    # --- failures

    def _succeeded(self, permit: Permit, now: float) -> None:
        if not permit.counted:
            permit.counted = True
            if permit.replica.breaker.succeeded(permit.generation, now):
                self._pool.start_over(permit.replica, now)

    def _ended_without_success(self, permit: Permit, result: AttemptResult, now: float) -> None:
        replica = permit.replica
        waited_too_long = False
        if replica.speed.awaiting.pop(permit.number, None) is not None:
            waited_s = now - permit.dispatched_at
            waited_too_long = self._slowness.is_slow_first_token(waited_s, permit.prompt_tokens)
            if waited_too_long:
                self._slowness.gave_up(replica.speed, waited_s, permit.prompt_tokens, now)
        if result is AttemptResult.OVERLOADED:
            replica.limit.overloaded()
        # Under congestion a first token that does not come in time tells of the queue, not of the replica's health.
        congestion = result is AttemptResult.TIMED_OUT and replica.limit.congested
        failed = result not in _TELL_NOTHING and not congestion
        if failed:
            self._failed(permit, now)
        elif not permit.counted:
            replica.breaker.abandoned(permit.generation)
        if permit is replica.probe:
            if failed or waited_too_long:
                self._probe_was_slow(replica, now)
            else:
                replica.probe = None
                replica.ejection.probe_told_nothing()

    def _failed(self, permit: Permit, now: float) -> None:
        replica = permit.replica
        if self._replicas.get(permit.engine_id) is not replica:
            return
        breaker = replica.breaker
        if breaker.failed(permit.generation, now, self._pool.may_exclude(replica, now)):
            if replica.ejection.active:
                replica.ejection.end(now)
                replica.probe = None
            replica.exclude(now)
        elif breaker.is_closed and breaker.should_open:
            # Enough are out already: rather a slow replica in service than a failing one, which the next failure opens.
            self._pool.take_back_a_slow_one(now)

    # --- slowness

    def _probes(self, replica: Replica, now: float) -> int:
        """Attempts that may be sent to a replica that is out of service."""
        if replica.ejection.active:
            return int(replica.ejection.probe_due(now, self._dispatches, self._pool_is_full))
        return replica.breaker.places(now) or 0

    def _watch_probe(self, replica: Replica, probe: Permit, now: float) -> None:
        if probe.first_token_at is None:
            if self._is_late_probe(now - probe.dispatched_at, probe.prompt_tokens):
                self._probe_was_slow(replica, now)
            return
        since = probe.first_token_at + self._config.slowness.pace_window_s
        slow = self._slowness.is_slow_pace(replica.speed, since)
        if slow is not None:
            self._judge_probe(replica, slow, now)

    def _is_late_probe(self, ttft_s: float, prompt_tokens: int) -> bool:
        return self._slowness.is_slow_first_token(ttft_s, prompt_tokens, self._config.slowness.return_factor)

    def _judge_probe(self, replica: Replica, slow: bool, now: float) -> None:
        if slow:
            self._probe_was_slow(replica, now)
        else:
            self._pool.start_over(replica, now)

    def _probe_was_slow(self, replica: Replica, now: float) -> None:
        if replica.probe is not None:
            replica.probe = None
            replica.ejection.probe_was_slow(now, self._dispatches)
