"""The router's judgement for one model: who is admitted, which replica it goes to, what is tried again.

Pure: clock readings (`now`, seconds, never running back) and the random source are handed in; what is to be done goes
to the outbox. `serve_app.router.decisions.watchdog` finds what is overdue, this module acts on it.
"""

from __future__ import annotations

from serve_app.core.errors import (
    DeadlineExceeded,
    EngineError,
    EngineLost,
    NotContinuable,
    ServeAppError,
    StreamStalled,
)
from serve_app.core.interfaces import RateLimitState, Rng
from serve_app.core.request import Priority
from serve_app.resilience.admission_queue import AdmissionQueue
from serve_app.resilience.drain_rate import DrainRate
from serve_app.resilience.fair_band import Offered
from serve_app.resilience.retry import Backoff
from serve_app.resilience.wake_bound import WakeBound
from serve_app.router.decisions.attempts import Attempts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EngineView
from serve_app.router.decisions.hedges import Hedges
from serve_app.router.decisions.messages import Dispatch, Fail, Offer, TickAt, Wake, Withdraw
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.picker import pick
from serve_app.router.decisions.refusals import Refusals
from serve_app.router.decisions.replica_policies import AttemptResult
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.router.decisions.watchdog import Finding, Watchdog
from serve_app.telemetry.reasons import RefusalReason, RequeueReason

_EXPECTATION_WEIGHT = 0.05
LONGEST_LOAD_WAITED_S = 1800.0
"""Bound of the time that requests wait for a model that loads, however long it was seen to take."""

_LOSS_PAUSE_S = 0.25
"""Before a stream goes on that lost two replicas, one of them without an answer: when many die at once, all of that is
known by then, and it does not lose its tries to replicas that are dead already."""

_ATTEMPT_RESULTS = {
    RequeueReason.FIRST_TOKEN_TIMEOUT: AttemptResult.TIMED_OUT,
    RequeueReason.NOT_ACCEPTED: AttemptResult.TIMED_OUT,
    RequeueReason.STALLED: AttemptResult.STALLED,
    RequeueReason.DRAINING: AttemptResult.CANCELLED,
    RequeueReason.ENGINE_FULL: AttemptResult.OVERLOADED,
    RequeueReason.WRONG_REPLICA: AttemptResult.CANCELLED,
    RequeueReason.ENGINE_LOST: AttemptResult.LOST,
    RequeueReason.ENGINE_FAILED: AttemptResult.FAILED,
}

_REASONS = {
    Finding.NOT_ACCEPTED: RequeueReason.NOT_ACCEPTED,
    Finding.NOT_DISPATCHED: RequeueReason.NOT_ACCEPTED,
    Finding.NO_FIRST_TOKEN: RequeueReason.FIRST_TOKEN_TIMEOUT,
    Finding.STALLED: RequeueReason.STALLED,
    Finding.STUCK: RequeueReason.STALLED,
    Finding.DRAINING: RequeueReason.DRAINING,
}


class ModelCore:
    """Single-threaded. Every stream gets exactly one end; each lease, permit and budget is given back once."""

    def __init__(self, model: str, config: DecisionsConfig, rng: Rng, outbox: Outbox) -> None:
        self._model = model
        self._outbox = outbox
        self._config = config
        self._rng = rng
        self.queue = AdmissionQueue(config.admission)
        self.drain = DrainRate()
        self.attempts = attempts = Attempts(config, self.drain, rng)
        self.pool, self.policies, self.budget = attempts.pool, attempts.policies, attempts.budget
        self.hedges = Hedges(config, attempts, rng, outbox)
        self._hedging = config.hedging.enabled
        self._backoff = Backoff(config.retry)
        self._watchdog = Watchdog(config, attempts.timeouts)
        self._refusals = Refusals(config, self.queue, self.drain, rng, attempts.first_token_model)
        self.streams: dict[int, StreamLedger] = {}
        self._parked: dict[int, StreamLedger] = {}
        """Streams that wait for the pause before another try, or for budget."""
        self._expected_output = float(config.expected_output_tokens)
        self._wake_bound = WakeBound(config.no_engine_timeout_s, LONGEST_LOAD_WAITED_S)

    # --- questions

    def can_admit(self, now: float) -> bool:
        """Whether a small request would be taken now, into the queue or at once."""
        return self.queue.can_take() or bool(self.attempts.candidates(now))

    def rate_limits(self, priority: Priority, now: float) -> RateLimitState:
        """The places of one band."""
        limit_requests, requests, limit_tokens, tokens = self.queue.places(priority)
        ahead = self.queue.tokens_ahead(priority)
        reset_s = (self.drain.wait_s(ahead, now) or 1.0) if ahead > 0 else 0.0
        return RateLimitState(limit_requests, requests, limit_tokens, tokens, reset_s, reset_s)

    @property
    def waiting(self) -> int:
        """Streams without a replica: queued, in line, or waiting for another try."""
        return len(self.queue) + self.queue.in_line + len(self._parked)

    # --- what happens to streams

    def offered(self, offer: Offer, now: float) -> None:
        """Start the stream at once, queue it, or refuse it."""
        expected = int(self._expected_output)
        if offer.max_tokens is not None:
            expected = min(expected, offer.max_tokens)
        stream = StreamLedger(offer, expected, now, prompt_tokens=offer.prompt_tokens)
        if offer.taken_over is not None:
            self._taken_over(stream, offer.taken_over, now)
            return
        if self._hedging and offer.hedgeable:
            stream.wanted_at = self.hedges.wanted_at(offer, now)
        queue = self.queue
        ready = self.pool.ready()
        refusal = self._refusals.hopeless(offer, ready, now)
        if refusal is not None:
            self._outbox.order(refusal)
            return
        # With nobody waiting, a request that can start needs no place in the queue.
        if not len(queue) and not queue.in_line:
            engine = pick(self.attempts.candidates(now, ready=ready), self._rng)
            if engine is not None:
                waiting = stream.as_waiting()
                queue.pass_through(waiting)
                stream.charged = waiting.cost
                self.streams[offer.stream_id] = stream
                self._dispatch(stream, engine, now)
                return
        result = queue.offer(stream.as_waiting(), now)
        if result.offered is Offered.REFUSED:
            error = self._refusals.queue_full(offer.priority, "The waiting queue is full.", now)
            self._outbox.order(Fail(offer.stream_id, error, RefusalReason.QUEUE_FULL))
            return
        for stream_id in result.displaced:
            message = "Its place in the waiting queue went to a tenant below its fair share."
            error = self._refusals.queue_full(offer.priority, message, now)
            self._fail(self.streams[stream_id], error, RefusalReason.DISPLACED)
        stream.in_line = result.offered is Offered.IN_LINE
        self.streams[offer.stream_id] = stream
        self.dispatch_waiting(now)
        if self.pool.is_empty():
            self._outbox.order(Wake(self._model))

    def _taken_over(self, stream: StreamLedger, output_tokens: int, now: float) -> None:
        """Go on with what another router had admitted, as after the loss of a replica: ahead of new work, and within
        the retry budget, or the death of a router would become a storm."""
        stream.output_tokens = output_tokens
        stream.begun = output_tokens > 0
        stream.charged = 0.0  # its tenant pays here when it has ended
        self.streams[stream.stream_id] = stream
        if stream.begun:
            self._park(stream, 0.0, now)
        else:
            self.queue.put_back(stream.as_waiting(), now)
        self.dispatch_waiting(now)

    def refused(self, stream: StreamLedger, reason: RequeueReason, now: float) -> None:
        """The replica did not take it: to the head of the queue, which costs no retry."""
        if stream.engine_id is None or stream.accepted or stream.failed:
            return
        self.pool.refused(stream.engine_id)
        if stream.hedge is not None:
            self.hedges.take_over(stream, reason, _ATTEMPT_RESULTS[reason], now)
            return
        stream.first_dispatched_at = None
        self._move(stream, reason, now)

    def attempt_failed(self, stream: StreamLedger, reason: RequeueReason, error: ServeAppError, now: float) -> None:
        """The present attempt came to nothing: try it again, go on elsewhere, or fail."""
        if stream.engine_id is None or stream.failed:
            return
        blamed = isinstance(error, EngineError) and not isinstance(error, NotContinuable)
        result = _ATTEMPT_RESULTS[reason] if blamed else AttemptResult.CANCELLED
        if blamed and stream.hedge is not None:
            stream.losses += self._costs_a_loss(stream, reason)
            self.hedges.take_over(stream, reason, result, now)
            return
        verdict = self._verdict(stream, reason, error)
        if verdict is not None:
            self.attempts.release(stream, result, now)
            self._fail(stream, verdict)
            return
        stream.last_error = error
        stream.first_dispatched_at = None  # this is an answer too
        stream.losses += self._costs_a_loss(stream, reason)
        lost_unanswered = reason is RequeueReason.ENGINE_LOST and not stream.accepted
        if lost_unanswered and stream.losses == 1:  # nothing was computed
            self._move(stream, reason, now)
            return
        self._take_back(stream, reason, now, result)
        delay_s = 0.0
        if lost_unanswered:
            delay_s = _LOSS_PAUSE_S
        elif not stream.begun:
            if reason is RequeueReason.ENGINE_FAILED:
                delay_s = self._backoff.delay_s(stream.retries, self._rng)
            stream.retries += 1
        self._park(stream, delay_s, now)

    def hedge_failed(self, stream: StreamLedger, reason: RequeueReason, now: float) -> None:
        """The second attempt came to nothing; the first one goes on, which will tell if the request itself is wrong."""
        hedge = stream.hedge
        if hedge is None or hedge.engine_id is None or stream.failed:
            return
        result = _ATTEMPT_RESULTS[reason]
        if result is AttemptResult.OVERLOADED or reason is RequeueReason.WRONG_REPLICA:
            if hedge.accepted:
                return
            self.pool.refused(hedge.engine_id)
        stream.losses += self._costs_a_loss(hedge, reason)
        self.hedges.drop(stream, reason, result, now)

    def ended(self, stream: StreamLedger, output_tokens: int, completed: bool, now: float) -> None:
        """The stream is over for its client."""
        del self.streams[stream.stream_id]
        if stream.hedge is not None:
            self.hedges.release(stream, now)
        stream.output_tokens = max(stream.output_tokens, output_tokens)
        if stream.engine_id is not None:
            self.attempts.release(stream, AttemptResult.SUCCEEDED if completed else AttemptResult.CANCELLED, now)
        else:
            self._parked.pop(stream.stream_id, None)
            self.queue.remove(stream.stream_id)
            self.attempts.give_back_budget(stream)
        if stream.charged is not None:
            self.queue.correct(stream.offer.tenant, stream.real_cost - stream.charged, stream.offer.priority)
        if completed:
            self._expected_output += _EXPECTATION_WEIGHT * (stream.output_tokens - self._expected_output)

    # --- what happens to replicas

    def engine_gone(self, engine_id: str, error: ServeAppError, now: float) -> None:
        """A replica died or fell silent: its streams go elsewhere."""
        self.pool.gone(engine_id)
        for stream in [s for s in self.streams.values() if s.hedge is not None and s.hedge.engine_id == engine_id]:
            self.hedge_failed(stream, RequeueReason.ENGINE_LOST, now)
        for stream in [s for s in self.streams.values() if s.engine_id == engine_id]:
            self.attempt_failed(stream, RequeueReason.ENGINE_LOST, error, now)

    def replicas_changed(self, now: float) -> None:
        """A replica reported, came or went: use what there is now."""
        self._wake_bound.looked(bool(self.pool.ready()), self.waiting > 0, now)
        self.dispatch_waiting(now)

    # --- time

    def ticked(self, now: float) -> None:
        """Act on what is overdue."""
        self.attempts.look_again()
        self.policies.watch(now)
        self._wake_bound.looked(bool(self.pool.ready()), self.waiting > 0, now)
        for stream in list(self.streams.values()):
            if stream.failed:
                continue
            deadline = stream.offer.deadline
            if deadline is not None and now >= deadline:
                self._fail(stream, DeadlineExceeded("The deadline passed."))
            elif stream.engine_id is not None:
                if now >= stream.check_at:
                    self._check_attempt(stream, stream.engine_id, now)
            else:
                self._check_waiting(stream, now)
        self.dispatch_waiting(now)
        if self.waiting and self.pool.is_empty():
            self._outbox.order(Wake(self._model))

    def dispatch_waiting(self, now: float) -> None:
        """Send what waits to replicas that have room. Call it after whatever may have made room."""
        if self._parked:
            self._unpark(now)
        queue = self.queue
        while (stream_id := queue.head(now)) is not None:
            stream = self.streams[stream_id]
            if stream.failed or self._too_late(stream, now):
                queue.remove(stream_id)
                if not stream.failed:
                    self._fail(stream, DeadlineExceeded("The deadline passed."))
                continue
            engine = pick(self.attempts.candidates(now, stream.avoid), self._rng)
            if engine is None:
                break
            cost = queue.take(stream_id, now).cost
            if stream.charged is None:
                stream.charged = cost
            self._dispatch(stream, engine, now)
        self.drain.backlogged(len(queue) > 0 and bool(self.pool.ready()), now)

    # --- attempts

    def _dispatch(self, stream: StreamLedger, engine: EngineView, now: float) -> None:
        self.attempts.start(stream, engine, now)
        self._outbox.order(Dispatch(stream.stream_id, stream.attempt, engine.engine_id, stream.begun))

    def _take_back(
        self,
        stream: StreamLedger,
        reason: RequeueReason,
        now: float,
        result: AttemptResult | None = None,
    ) -> None:
        wasted = stream.prompt_tokens + stream.output_tokens if stream.accepted else 0
        stream.avoid = stream.engine_id
        self.attempts.release(stream, result or _ATTEMPT_RESULTS[reason], now)
        if stream.accepted:
            stream.waiting_since = now
        self._outbox.order(Withdraw(stream.stream_id, stream.attempt, reason, wasted))

    def _move(self, stream: StreamLedger, reason: RequeueReason, now: float) -> None:
        """Take the attempt back and queue the stream again, with what it holds of the retry budget."""
        held, stream.budget_tokens = stream.budget_tokens, None
        self._take_back(stream, reason, now)
        stream.budget_tokens = held
        self.queue.put_back(stream.as_waiting(), now)

    def _verdict(self, stream: StreamLedger, reason: RequeueReason, error: ServeAppError) -> ServeAppError | None:
        """The error with which a failed attempt ends the stream; None when it is tried again or goes on."""
        if not isinstance(error, EngineError) or isinstance(error, NotContinuable):
            return error
        failover = self._config.failover
        if self._costs_a_loss(stream, reason) and stream.losses >= failover.max_losses:
            return error
        if not stream.begun:
            tried_enough = reason is not RequeueReason.ENGINE_LOST and not self._backoff.may_retry(stream.retries)
            return error if tried_enough else None
        if not failover.enabled:
            return error
        if not stream.offer.continuable:
            return NotContinuable("The engine replica was lost, and an answer of several choices cannot be continued.")
        return None

    def _costs_a_loss(self, stream: StreamLedger, reason: RequeueReason) -> bool:
        """Whether this failed attempt counts against `max_losses`: its replica died, or failed what had begun."""
        return reason is RequeueReason.ENGINE_LOST or stream.begun

    def _park(self, stream: StreamLedger, delay_s: float, now: float) -> None:
        stream.not_before = now + delay_s
        self._parked[stream.stream_id] = stream
        if delay_s > 0.0:
            self._outbox.order(TickAt(stream.not_before))

    def _unpark(self, now: float) -> None:
        """Queue again, ahead of new work, those whose pause is over and for whom there is budget; who came first is not
        passed over for another one that needs less."""
        for stream_id, stream in list(self._parked.items()):
            if stream.failed:
                del self._parked[stream_id]
            elif now >= stream.not_before:
                if not self.attempts.take_budget(stream):
                    return
                del self._parked[stream_id]
                self.queue.put_back(stream.as_waiting(), now)

    # --- overdue

    def _check_attempt(self, stream: StreamLedger, engine_id: str, now: float) -> None:
        view = self.pool.view(engine_id)
        if view is None:
            return
        finding, stream.check_at = self._watchdog.look(stream, view, now)
        if finding is not None and stream.hedge is not None:
            self.hedges.take_over(stream, _REASONS[finding], _ATTEMPT_RESULTS[_REASONS[finding]], now)
            if stream.engine_id is not None:
                self._check_attempt(stream, stream.engine_id, now)
            return
        match finding:
            case None:
                if stream.first_token_at is None and self._hedging:
                    self.hedges.look(stream, self.waiting > 0, now)
            case Finding.NOT_DISPATCHED:
                error = self._refusals.no_engine("No engine answered in time.")
                self._fail(stream, error, RefusalReason.NO_ENGINE)
            case Finding.NOT_ACCEPTED:
                if self.attempts.another_has_room(engine_id, now):
                    self._move(stream, RequeueReason.NOT_ACCEPTED, now)
                    self.dispatch_waiting(now)
            case Finding.NO_FIRST_TOKEN:
                if self._backoff.may_retry(stream.retries) and self._may_move(stream, engine_id, now):
                    self.attempts.timeouts.first_token_timed_out()
                    stream.retries += 1
                    self._move(stream, RequeueReason.FIRST_TOKEN_TIMEOUT, now)
                    self.dispatch_waiting(now)
            case Finding.STALLED | Finding.DRAINING | Finding.STUCK:
                self._hand_over(stream, engine_id, finding, now)

    def _hand_over(self, stream: StreamLedger, engine_id: str, finding: Finding, now: float) -> None:
        """Have another replica go on, or start where there is no token yet; end the stream if that is its last hope."""
        drains = finding is Finding.DRAINING
        gone_by = "The engine replica was removed." if drains else "The engine stopped giving tokens."
        error = EngineLost(gone_by) if drains else StreamStalled(gone_by)
        failover = self._config.failover
        may_go_on = not stream.begun or (failover.enabled and stream.offer.continuable)
        if not drains and stream.losses >= failover.max_losses:
            may_go_on = False
        if may_go_on and self._may_move(stream, engine_id, now):
            stream.last_error = error
            stream.losses += not drains
            self._move(stream, RequeueReason.DRAINING if drains else RequeueReason.STALLED, now)
            self.dispatch_waiting(now)
        elif finding is Finding.STUCK:
            self.attempts.release(stream, AttemptResult.STALLED, now)
            self._fail(stream, error)

    def _may_move(self, stream: StreamLedger, engine_id: str, now: float) -> bool:
        """Whether another replica has room for a repeat now, and the budget too; takes from the budget if so.

        A silent stream is not given up for a place in the queue: it may yet go on. So whoever moves is dispatched at
        once, before the next one looks for room.
        """
        if not self.attempts.another_has_room(engine_id, now):
            return False
        # Who repeats already goes on doing so, with what was taken for it.
        return stream.budget_tokens is not None or self.attempts.take_budget(stream)

    def _check_waiting(self, stream: StreamLedger, now: float) -> None:
        if not self.pool.ready():
            if self._wake_bound.held_too_long(stream.waiting_since, now):
                error = stream.last_error or self._refusals.no_engine(f"No engine is ready to serve {self._model!r}.")
                self._fail(stream, error, RefusalReason.NO_ENGINE)
            return
        admission = self._config.admission
        if stream.in_line:
            stream.in_line = self.queue.waits_in_line(stream.stream_id)
        limit_s = admission.in_line_timeout_s if stream.in_line else admission.queue_timeout_s
        if now - self._wake_bound.queued_since(stream.waiting_since) >= limit_s:
            message = f"No place was free within {limit_s:g} s."
            error = stream.last_error or self._refusals.queue_full(stream.offer.priority, message, now)
            self._fail(stream, error, RefusalReason.WAITED)

    # --- ends

    def _too_late(self, stream: StreamLedger, now: float) -> bool:
        return stream.offer.deadline is not None and now >= stream.offer.deadline

    def _fail(self, stream: StreamLedger, error: ServeAppError, refusal: RefusalReason | None = None) -> None:
        """Order the end of a stream; its place is given back when the shell reports `Ended`."""
        if not stream.failed:
            stream.failed = True
            self._outbox.order(Fail(stream.stream_id, error, refusal))
