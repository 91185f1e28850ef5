"""What becomes of a stream whose attempt came to nothing: it moves, is tried again, goes on elsewhere, or fails."""

from __future__ import annotations

from serve_app.core.errors import EngineError, EngineLost, NotContinuable, ServeAppError, StreamStalled
from serve_app.core.interfaces import Rng
from serve_app.resilience.retry import Backoff
from serve_app.router.decisions.attempts import Attempts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.hedges import Hedges
from serve_app.router.decisions.messages import Withdraw
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.replica_policies import AttemptResult
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.router.decisions.waiting_streams import WaitingStreams
from serve_app.router.decisions.watchdog import Finding
from serve_app.telemetry.reasons import RequeueReason

_LOSS_PAUSE_S = 0.25
"""Before a stream goes on that lost two replicas, one of them without an answer: when many die at once, all of that is
known by then, and it does not lose its tries to replicas that are dead already."""

ATTEMPT_RESULTS = {
    RequeueReason.FIRST_TOKEN_TIMEOUT: AttemptResult.TIMED_OUT,
    RequeueReason.NOT_ACCEPTED: AttemptResult.CANCELLED,  # it may be the prompt that takes so long to render
    RequeueReason.STALLED: AttemptResult.STALLED,
    RequeueReason.DRAINING: AttemptResult.CANCELLED,
    RequeueReason.ENGINE_FULL: AttemptResult.OVERLOADED,
    RequeueReason.WRONG_REPLICA: AttemptResult.CANCELLED,
    RequeueReason.ENGINE_LOST: AttemptResult.LOST,
    RequeueReason.ENGINE_FAILED: AttemptResult.FAILED,
}
"""What the replica's policies are told of an attempt that was taken back for this reason."""


class Recovery:
    """Of one model's streams. Pure and single-threaded; clock readings (`now`) are in seconds and never run back.

    Nothing is dispatched here: call `WaitingStreams.dispatch` afterwards.
    """

    def __init__(
        self,
        config: DecisionsConfig,
        attempts: Attempts,
        hedges: Hedges,
        waiting: WaitingStreams,
        rng: Rng,
        outbox: Outbox,
    ) -> None:
        self._failover = config.failover
        self._attempts = attempts
        self._hedges = hedges
        self._waiting = waiting
        self._backoff = Backoff(config.retry)
        self._rng = rng
        self._outbox = outbox

    # --- what replicas tell

    def refused(self, stream: StreamLedger, reason: RequeueReason, now: float) -> None:
        """The replica did not take it: to the head of the queue, which costs no retry."""
        if stream.engine_id is None or stream.accepted or stream.failed:
            return
        self._attempts.pool.refused(stream.engine_id)
        if stream.hedge is not None:
            self._hedges.take_over(stream, reason, ATTEMPT_RESULTS[reason], now)
            return
        stream.first_dispatched_at = None
        self.move(stream, reason, now)

    def attempt_failed(self, stream: StreamLedger, reason: RequeueReason, error: ServeAppError, now: float) -> None:
        """The present attempt came to nothing: try it again, go on elsewhere, or fail."""
        if stream.engine_id is None or stream.failed:
            return
        # Only an engine's own failure says something about its replica; a bad request says nothing.
        blamed = isinstance(error, EngineError) and not isinstance(error, NotContinuable)
        result = ATTEMPT_RESULTS[reason] if blamed else AttemptResult.CANCELLED
        if blamed and stream.hedge is not None:
            stream.losses += _costs_a_loss(stream, reason)
            self._hedges.take_over(stream, reason, result, now)
            return
        verdict = self._verdict(stream, reason, error)
        if verdict is not None:
            self._attempts.release(stream, result, now)
            self._outbox.fail(stream, verdict)
            return
        stream.last_error = error
        stream.first_dispatched_at = None  # this is an answer too
        stream.losses += _costs_a_loss(stream, reason)
        lost_unanswered = reason is RequeueReason.ENGINE_LOST and not stream.accepted
        if lost_unanswered and stream.losses == 1:  # nothing was computed
            self.move(stream, reason, now)
            return
        self._take_back(stream, reason, result, now)
        delay_s = 0.0
        if lost_unanswered:
            delay_s = _LOSS_PAUSE_S
        elif not stream.begun:
            if reason is RequeueReason.ENGINE_FAILED:
                delay_s = self._backoff.delay_s(stream.retries, self._rng)
            stream.retries += 1
        self._waiting.park(stream, delay_s, now)

    def hedge_failed(self, stream: StreamLedger, reason: RequeueReason, now: float) -> None:
        """The second attempt came to nothing; the first one goes on, which will tell if the request itself is wrong."""
        hedge = stream.hedge
        if hedge is None or hedge.engine_id is None or stream.failed:
            return
        result = ATTEMPT_RESULTS[reason]
        if result is AttemptResult.OVERLOADED or reason is RequeueReason.WRONG_REPLICA:
            if hedge.accepted:
                return
            self._attempts.pool.refused(hedge.engine_id)
        stream.losses += _costs_a_loss(hedge, reason)
        self._hedges.drop(stream, reason, result, now)

    # --- what the watchdog found

    def may_retry(self, stream: StreamLedger) -> bool:
        """Whether the stream may begin anew once more."""
        return self._backoff.may_retry(stream.retries)

    def may_move(self, stream: StreamLedger, engine_id: str, now: float) -> bool:
        """Whether another replica has room for a repeat now, and the budget too; takes from the budget if so.

        A silent stream is not given up for a place in the queue: it may yet go on. So dispatch whoever moves at once,
        before the next one looks for room.
        """
        if not self._attempts.another_has_room(stream, engine_id, now):
            return False
        # Who repeats already goes on doing so, with what was taken for it.
        return stream.budget_tokens is not None or self._attempts.take_budget(stream)

    def hand_over(self, stream: StreamLedger, engine_id: str, finding: Finding, now: float) -> None:
        """Have another replica go on, or start where there is no token yet; end the stream if that is its last hope."""
        drains = finding is Finding.DRAINING
        gone_by = "The engine replica was removed." if drains else "The engine stopped giving tokens."
        error = EngineLost(gone_by) if drains else StreamStalled(gone_by)
        failover = self._failover
        may_go_on = not stream.begun or (failover.enabled and stream.offer.continuable)
        if not drains and stream.losses >= failover.max_losses:
            may_go_on = False
        if may_go_on and self.may_move(stream, engine_id, now):
            stream.last_error = error
            stream.losses += not drains
            self.move(stream, RequeueReason.DRAINING if drains else RequeueReason.STALLED, now)
        elif finding is Finding.STUCK:
            self._attempts.release(stream, AttemptResult.STALLED, now)
            self._outbox.fail(stream, error)

    def move(self, stream: StreamLedger, reason: RequeueReason, now: float) -> None:
        """Take the attempt back and queue the stream again, with what it holds of the retry budget."""
        held, stream.budget_tokens = stream.budget_tokens, None  # or the release would give it back
        self._take_back(stream, reason, ATTEMPT_RESULTS[reason], now)
        stream.budget_tokens = held
        self._waiting.put_back(stream, now)

    def _take_back(self, stream: StreamLedger, reason: RequeueReason, result: AttemptResult, now: float) -> None:
        wasted = stream.prompt_tokens + stream.output_tokens if stream.accepted else 0
        stream.avoid = stream.engine_id
        self._attempts.release(stream, result, now)
        if stream.accepted:
            stream.waiting_since = now
        self._outbox.order(Withdraw(stream.stream_id, stream.attempt, reason, wasted))

    def _verdict(self, stream: StreamLedger, reason: RequeueReason, error: ServeAppError) -> ServeAppError | None:
        """The error with which a failed attempt ends the stream; None when it is tried again or goes on."""
        if not isinstance(error, EngineError) or isinstance(error, NotContinuable):
            return error
        if _costs_a_loss(stream, reason) and stream.losses >= self._failover.max_losses:
            return error
        if not stream.begun:
            tried_enough = reason is not RequeueReason.ENGINE_LOST and not self.may_retry(stream)
            return error if tried_enough else None
        if not self._failover.enabled:
            return error
        if not stream.offer.continuable:
            return NotContinuable("The engine replica was lost, and an answer of several choices cannot be continued.")
        return None


def _costs_a_loss(stream: StreamLedger, reason: RequeueReason) -> bool:
    """Whether this failed attempt counts against `max_losses`: its replica died, or failed what had begun."""
    return reason is RequeueReason.ENGINE_LOST or stream.begun
