"""Acts on what is overdue: attempts that leave a stream without an answer, and streams that wait for too long.

`serve_app.router.decisions.watchdog` finds what is wrong with an attempt.
"""

from __future__ import annotations

from serve_app.core.errors import DeadlineExceeded
from serve_app.resilience.wake_bound import WakeBound
from serve_app.router.decisions.attempts import Attempts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.hedges import Hedges
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.recovery import ATTEMPT_RESULTS, Recovery
from serve_app.router.decisions.refusals import Refusals
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.router.decisions.waiting_streams import WaitingStreams
from serve_app.router.decisions.watchdog import Finding, Watchdog
from serve_app.telemetry.reasons import RefusalReason, RequeueReason

_REASONS = {
    Finding.NOT_ACCEPTED: RequeueReason.NOT_ACCEPTED,
    Finding.NOT_DISPATCHED: RequeueReason.NOT_ACCEPTED,
    Finding.NO_FIRST_TOKEN: RequeueReason.FIRST_TOKEN_TIMEOUT,
    Finding.STALLED: RequeueReason.STALLED,
    Finding.STUCK: RequeueReason.STALLED,
    Finding.DRAINING: RequeueReason.DRAINING,
}


class Overdue:
    """Of one model's streams. Pure and single-threaded; clock readings (`now`) are in seconds and never run back."""

    def __init__(
        self,
        config: DecisionsConfig,
        attempts: Attempts,
        hedges: Hedges,
        waiting: WaitingStreams,
        recovery: Recovery,
        refusals: Refusals,
        wake_bound: WakeBound,
        outbox: Outbox,
    ) -> None:
        self._admission = config.admission
        self._hedging = config.hedging.enabled
        self._attempts = attempts
        self._watchdog = Watchdog(config, attempts.timeouts)
        self._hedges = hedges
        self._waiting = waiting
        self._recovery = recovery
        self._refusals = refusals
        self._wake_bound = wake_bound
        self._outbox = outbox

    def look(self, stream: StreamLedger, now: float) -> None:
        """Look at one stream; called for each one every tick."""
        if stream.failed:
            return
        if stream.is_too_late(now):
            self._outbox.fail(stream, DeadlineExceeded("The deadline passed."))
        elif stream.engine_id is None:
            self._look_at_waiting(stream, now)
        elif now >= stream.check_at:
            self._look_at_attempt(stream, stream.engine_id, now)

    def _look_at_attempt(self, stream: StreamLedger, engine_id: str, now: float) -> None:
        view = self._attempts.pool.view(engine_id)
        if view is None:
            return
        finding, stream.check_at = self._watchdog.look(stream, view, now)
        if finding is not None and stream.hedge is not None:
            reason = _REASONS[finding]
            self._hedges.take_over(stream, reason, ATTEMPT_RESULTS[reason], now)
            if stream.engine_id is not None:  # the other attempt may be overdue as well
                self._look_at_attempt(stream, stream.engine_id, now)
            return
        match finding:
            case None:
                if stream.first_token_at is None and self._hedging:
                    self._hedges.look(stream, self._waiting.count > 0, now)
            case Finding.NOT_DISPATCHED:
                error = self._refusals.no_engine("No engine answered in time.")
                self._outbox.fail(stream, error, RefusalReason.NO_ENGINE)
            case Finding.NOT_ACCEPTED:
                if self._attempts.another_has_room(stream, engine_id, now):
                    self._recovery.move(stream, RequeueReason.NOT_ACCEPTED, now)
                    self._waiting.dispatch(now)
            case Finding.NO_FIRST_TOKEN:
                if self._recovery.may_retry(stream) and self._recovery.may_move(stream, engine_id, now):
                    self._attempts.timeouts.first_token_timed_out()
                    stream.retries += 1
                    self._recovery.move(stream, RequeueReason.FIRST_TOKEN_TIMEOUT, now)
                    self._waiting.dispatch(now)
            case Finding.STALLED | Finding.DRAINING | Finding.STUCK:
                self._recovery.hand_over(stream, engine_id, finding, now)
                if stream.engine_id is None and not stream.failed:
                    self._waiting.dispatch(now)

    def _look_at_waiting(self, stream: StreamLedger, now: float) -> None:
        if not self._attempts.pool.ready():
            if self._wake_bound.held_too_long(stream.waiting_since, now):
                error = stream.last_error or self._refusals.no_engine(
                    f"No engine is ready to serve {stream.offer.model!r}."
                )
                self._outbox.fail(stream, error, RefusalReason.NO_ENGINE)
            return
        if stream.in_line:
            stream.in_line = self._waiting.queue.waits_in_line(stream.stream_id)
        limit_s = self._admission.in_line_timeout_s if stream.in_line else self._admission.queue_timeout_s
        if now - self._wake_bound.queued_since(stream.waiting_since) >= limit_s:
            message = f"No place was free within {limit_s:g} s."
            error = stream.last_error or self._refusals.queue_full(stream.offer.priority, message, now)
            self._outbox.fail(stream, error, RefusalReason.WAITED)
