"""Second, concurrent attempts of streams without a first token: sent, decided, and given back."""

from __future__ import annotations

from serve_app.core.interfaces import Rng
from serve_app.resilience.hedging import hedge_window
from serve_app.router.decisions.attempts import Attempts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EngineView
from serve_app.router.decisions.messages import Dispatch, Offer, TickAt, Withdraw
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.picker import pick
from serve_app.router.decisions.replica_policies import AttemptResult
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.telemetry.reasons import RequeueReason

_AHEAD_S = 0.1
"""Regular ticks come this often: a moment between two of them needs one of its own."""
_TICKS_APART_S = 0.01


class Hedges:
    """The second attempts of one model's streams. Pure and single-threaded; `now` (seconds) never runs back.

    A second attempt is a stream of its own as far as `Attempts` can tell, with a lease, a permit and a part of the
    retry budget. Until it is decided which one goes on, the stream has the first attempt and `stream.hedge` the second.
    """

    def __init__(self, config: DecisionsConfig, attempts: Attempts, rng: Rng, outbox: Outbox) -> None:
        self._config = config.hedging
        self._objectives = config.first_token_objectives_s
        self._attempts = attempts
        self._rng = rng
        self._outbox = outbox
        self._ticks_until = 0.0

    def wanted_at(self, offer: Offer, now: float) -> float | None:
        """Before when the first token of this new offer is wanted; None where its band has no objective."""
        target_s = self._config.target_s or self._objectives.of(offer.priority)
        return None if target_s is None else now + target_s

    def look(self, stream: StreamLedger, others_wait: bool, now: float) -> None:
        """Send a second attempt of a stream without a first token, if this is the time, and there is room and budget.

        Never while anybody waits (`others_wait`). Sets `stream.check_at` to when it may be time.
        """
        if stream.wanted_at is None or stream.hedged or stream.begun or stream.losses:
            return  # what may have killed a replica is not sent to two
        timeouts = self._attempts.timeouts
        typical_s = timeouts.typical_first_token_s(stream.prompt_tokens, self._config.min_samples, now)
        if typical_s is None:
            return
        window = hedge_window(self._config, stream.wanted_at, stream.dispatched_at, typical_s)
        if now > window.until:
            return
        if now < window.since:
            if window.since - now <= _AHEAD_S:
                self._ask_for_tick(window.since, now)
            stream.check_at = min(stream.check_at, max(now, window.since - _AHEAD_S))
            return
        stream.check_at = now
        if not others_wait:
            engine = self._with_room(stream, now)
            if engine is not None:
                self._send(stream, engine, now)

    def _ask_for_tick(self, at: float, now: float) -> None:
        """However many streams are about to be late, there are few ticks."""
        if at > self._ticks_until:
            self._ticks_until = max(at, self._ticks_until + _TICKS_APART_S) if self._ticks_until > now else at
            self._outbox.order(TickAt(self._ticks_until))

    def _with_room(self, stream: StreamLedger, now: float) -> EngineView | None:
        candidates = self._attempts.candidates(now, stream, avoid=stream.engine_id)
        if not self._config.same_replica:
            candidates = [view for view in candidates if view.engine_id != stream.engine_id]
        return pick(candidates, self._rng)

    def _send(self, stream: StreamLedger, engine: EngineView, now: float) -> None:
        hedge = StreamLedger(
            stream.offer,
            stream.expected_output,
            stream.waiting_since,
            prompt_tokens=stream.prompt_tokens,
            dispatches=stream.dispatches,
        )
        if not self._attempts.take_budget(hedge):
            return
        self._attempts.start(hedge, engine, now)
        stream.dispatches = hedge.attempt
        stream.hedge, stream.hedged = hedge, True
        self._outbox.order(Dispatch(stream.stream_id, hedge.attempt, engine.engine_id, hedge=True, group=engine.group))

    # --- decided

    def drop(self, stream: StreamLedger, reason: RequeueReason, result: AttemptResult, now: float) -> None:
        """The second attempt came to nothing, or is not needed: the first one goes on."""
        hedge, stream.hedge = stream.hedge, None
        assert hedge is not None
        wasted = hedge.prompt_tokens if hedge.accepted else 0
        if hedge.accepted:
            stream.waiting_since = now  # until now a replica computed something for it
        self._attempts.release(hedge, result, now)
        self._outbox.order(Withdraw(stream.stream_id, hedge.attempt, reason, wasted))

    def take_over(self, stream: StreamLedger, reason: RequeueReason, result: AttemptResult, now: float) -> None:
        """The first attempt came to nothing, or is too slow: the second one is the stream's present attempt now."""
        hedge = stream.hedge
        assert hedge is not None
        stream.was_computed = stream.was_computed or stream.accepted
        # After the exchange `hedge` holds the first attempt, so that `drop` gives that one's lease and permit back.
        stream.exchange(hedge)
        if stream.accepted:  # a replica has answered: `dispatch_timeout_s` does not run
            stream.first_dispatched_at = None
        elif reason is not RequeueReason.NOT_ACCEPTED:  # that the first one failed is an answer too
            stream.first_dispatched_at = stream.dispatched_at
        if reason is not RequeueReason.OUTRUN and stream.budget_tokens is None:
            # What runs repeats what failed: the stream itself holds the budget now, or `drop` would give it back.
            stream.budget_tokens, hedge.budget_tokens = hedge.budget_tokens, None
        self.drop(stream, reason, result, now)

    def release(self, stream: StreamLedger, now: float) -> None:
        """The stream ended: give back what its second attempt holds."""
        hedge, stream.hedge = stream.hedge, None
        assert hedge is not None
        self._attempts.release(hedge, AttemptResult.CANCELLED, now)
