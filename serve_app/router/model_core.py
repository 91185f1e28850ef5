"""The router's judgement for one model: who is admitted, which replica it goes to, what is tried again.

Pure: clock readings (`now`, seconds, never running back) and the random source are handed in; what is to be done goes
to `commands`. `serve_app.router.watchdog` finds what is overdue, this module acts on it.
"""

from __future__ import annotations

import random

from serve_app.core.errors import (
    DeadlineExceeded,
    EngineError,
    EngineLost,
    NotContinuable,
    ServeAppError,
    StreamStalled,
)
from serve_app.core.interfaces import RateLimitState
from serve_app.core.request import Priority
from serve_app.resilience.admission_queue import AdmissionQueue
from serve_app.resilience.drain_rate import DrainRate
from serve_app.resilience.fair_band import Offered
from serve_app.resilience.first_token_model import FirstTokenModel
from serve_app.resilience.retry import Backoff
from serve_app.resilience.retry_budget import RetryBudget
from serve_app.resilience.stream_timeouts import StreamTimeouts
from serve_app.resilience.wake_bound import WakeBound
from serve_app.router.config import RouterConfig
from serve_app.router.engine_pool import EnginePool, EngineView
from serve_app.router.messages import Command, Dispatch, Fail, Offer, TickAt, Wake, Withdraw
from serve_app.router.picker import pick
from serve_app.router.refusals import Refusals
from serve_app.router.replica_policies import AttemptResult, ReplicaPolicies
from serve_app.router.routed_stream import RoutedStream
from serve_app.router.watchdog import Finding, Watchdog
from serve_app.telemetry.reasons import RefusalReason, RequeueReason

_EXPECTATION_WEIGHT = 0.05
LONGEST_LOAD_WAITED_S = 1800.0
"""Bound of the time that requests wait for a model that loads, however long it was seen to take."""

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


class ModelCore:
    """Single-threaded. Every stream gets exactly one end; each lease, permit and budget is given back once."""

    def __init__(self, model: str, config: RouterConfig, rng: random.Random) -> None:
        self._model = model
        self._config = config
        self._rng = rng
        self.queue = AdmissionQueue(config.admission)
        self.policies = ReplicaPolicies(config.replicas, rng)
        self.pool = EnginePool(self.policies.forget)
        self.drain = DrainRate()
        self.budget = RetryBudget(config.retry.budget)
        self.timeouts = StreamTimeouts(config.timeouts)
        self.first_token_model = FirstTokenModel()
        self._backoff = Backoff(config.retry)
        self._watchdog = Watchdog(config, self.timeouts)
        self._refusals = Refusals(config, self.queue, self.drain, rng, self.first_token_model)
        self.streams: dict[int, RoutedStream] = {}
        self._parked: dict[int, RoutedStream] = {}
        """Streams that wait for the pause before another try, or for budget."""
        self._expected_output = float(config.expected_output_tokens)
        self._wake_bound = WakeBound(config.no_engine_timeout_s, LONGEST_LOAD_WAITED_S)

    # --- questions

    def candidates(self, now: float, avoid: str | None = None) -> list[EngineView]:
        """Replicas that may be sent a stream now; `avoid` only when there is no other."""
        allowance = self.policies.allowance
        usable = [
            view
            for view in self.pool.ready()
            if not view.refused and self._may_prefill(view) and allowance(view.engine_id, view.in_flight, now) > 0
        ]
        if avoid is None or len(usable) < 2:
            return usable
        return [view for view in usable if view.engine_id != avoid]

    def _may_prefill(self, view: EngineView) -> bool:
        """Whether its queue of prompts is short. One that waits here waits in fair order, and may go elsewhere."""
        if view.awaiting_tokens == 0:
            return True
        allowed_s = self._config.max_prefill_backlog_s / max(1, view.status.routers)
        return view.awaiting_tokens * self.first_token_model.seconds_per_token < allowed_s

    def can_admit(self, now: float) -> bool:
        """Whether a small request would be taken now, into the queue or at once."""
        return self.queue.can_take() or bool(self.candidates(now))

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

    def offered(self, offer: Offer, now: float, commands: list[Command]) -> None:
        """Start the stream at once, queue it, or refuse it."""
        expected = int(self._expected_output)
        if offer.max_tokens is not None:
            expected = min(expected, offer.max_tokens)
        stream = RoutedStream(offer, offer.prompt_tokens, expected, now)
        queue = self.queue
        refusal = self._refusals.hopeless(offer, self.pool.ready(), now)
        if refusal is not None:
            commands.append(refusal)
            return
        # With nobody waiting, a request that can start needs no place in the queue.
        if not len(queue) and not queue.in_line:
            engine = pick(self.candidates(now), self._rng)
            if engine is not None:
                waiting = stream.as_waiting()
                queue.pass_through(waiting)
                stream.charged = waiting.cost
                self.streams[offer.stream_id] = stream
                self._dispatch(stream, engine, now, commands)
                return
        result = queue.offer(stream.as_waiting(), now)
        if result.offered is Offered.REFUSED:
            error = self._refusals.queue_full(offer.priority, "The waiting queue is full.", now)
            commands.append(Fail(offer.stream_id, error, RefusalReason.QUEUE_FULL))
            return
        for stream_id in result.displaced:
            message = "Its place in the waiting queue went to a tenant below its fair share."
            error = self._refusals.queue_full(offer.priority, message, now)
            self._fail(self.streams[stream_id], error, commands, RefusalReason.DISPLACED)
        stream.in_line = result.offered is Offered.IN_LINE
        self.streams[offer.stream_id] = stream
        self.dispatch_waiting(now, commands)
        if self.pool.is_empty():
            commands.append(Wake(self._model))

    def accepted(self, stream: RoutedStream, prompt_tokens: int) -> None:
        """The replica took the stream's present attempt, and counted the prompt."""
        if stream.engine_id is None:
            return
        stream.accepted = True
        stream.first_dispatched_at = None
        correction = prompt_tokens - stream.prompt_tokens
        stream.prompt_tokens = prompt_tokens
        stream.leased_tokens += correction
        self.pool.adjust(stream.engine_id, correction)
        self.budget.in_flight(correction)

    def received(self, stream: RoutedStream, count: int, now: float) -> None:
        """`count` output tokens came. Called for every token: cheap."""
        engine_id = stream.engine_id
        if engine_id is None or stream.permit is None:
            return
        if stream.first_token_at is None:
            self._first_token(stream, now)
        else:
            gap = now - stream.last_token_at
            if gap > stream.longest_gap_s:
                stream.longest_gap_s = gap
        stream.last_token_at = now
        stream.attempt_tokens += count
        stream.output_tokens += count
        # A stream that outlives its expectation must not make its replica look emptier than without it.
        expected = min(count, stream.output_ahead - 1)
        if expected:
            stream.output_ahead -= expected
            self.pool.adjust(engine_id, -expected)
        self.drain.departed(count, now)

    def refused(self, stream: RoutedStream, reason: RequeueReason, now: float, commands: list[Command]) -> None:
        """The replica did not take it: to the head of the queue, which costs no retry."""
        if stream.engine_id is None or stream.accepted or stream.failed:
            return
        self.pool.refused(stream.engine_id)
        stream.first_dispatched_at = None
        self._move(stream, reason, now, commands)

    def attempt_failed(
        self, stream: RoutedStream, reason: RequeueReason, error: ServeAppError, now: float, commands: list[Command]
    ) -> None:
        """The present attempt came to nothing: try it again, go on elsewhere, or fail."""
        if stream.engine_id is None or stream.failed:
            return
        blamed = isinstance(error, EngineError) and not isinstance(error, NotContinuable)
        result = _ATTEMPT_RESULTS[reason] if blamed else AttemptResult.CANCELLED
        verdict = self._verdict(stream, reason, error)
        if verdict is not None:
            self._release(stream, result, now)
            self._fail(stream, verdict, commands)
            return
        stream.last_error = error
        stream.first_dispatched_at = None  # this is an answer too
        if reason is RequeueReason.ENGINE_LOST and not stream.accepted:  # nothing was computed
            self._move(stream, reason, now, commands)
            return
        stream.losses += self._costs_a_loss(stream, reason)
        self._take_back(stream, reason, now, commands, result)
        delay_s = 0.0
        if not stream.replay:
            if reason is RequeueReason.ENGINE_FAILED:
                delay_s = self._backoff.delay_s(stream.retries, self._rng)
            stream.retries += 1
        self._park(stream, delay_s, now, commands)

    def ended(self, stream: RoutedStream, output_tokens: int, completed: bool, now: float) -> None:
        """The stream is over for its client."""
        del self.streams[stream.stream_id]
        stream.output_tokens = max(stream.output_tokens, output_tokens)
        if stream.engine_id is not None:
            self._release(stream, AttemptResult.SUCCEEDED if completed else AttemptResult.CANCELLED, now)
        else:
            self._parked.pop(stream.stream_id, None)
            self.queue.remove(stream.stream_id)
            self._give_back_budget(stream)
        if stream.charged is not None:
            self.queue.correct(stream.offer.tenant, stream.real_cost - stream.charged, stream.offer.priority)
        if completed:
            self._expected_output += _EXPECTATION_WEIGHT * (stream.output_tokens - self._expected_output)

    # --- what happens to replicas

    def engine_gone(self, engine_id: str, error: ServeAppError, now: float, commands: list[Command]) -> None:
        """A replica died or fell silent: its streams go elsewhere."""
        self.pool.gone(engine_id)
        for stream in [s for s in self.streams.values() if s.engine_id == engine_id]:
            self.attempt_failed(stream, RequeueReason.ENGINE_LOST, error, now, commands)

    def replicas_changed(self, now: float, commands: list[Command]) -> None:
        """A replica reported, came or went: use what there is now."""
        self._wake_bound.looked(bool(self.pool.ready()), self.waiting > 0, now)
        self.dispatch_waiting(now, commands)

    # --- time

    def ticked(self, now: float, commands: list[Command]) -> None:
        """Act on what is overdue."""
        self.policies.watch(now)
        self._wake_bound.looked(bool(self.pool.ready()), self.waiting > 0, now)
        for stream in list(self.streams.values()):
            if stream.failed:
                continue
            deadline = stream.offer.deadline
            if deadline is not None and now >= deadline:
                self._fail(stream, DeadlineExceeded("The deadline passed."), commands)
            elif stream.engine_id is not None:
                if now >= stream.check_at:
                    self._check_attempt(stream, stream.engine_id, now, commands)
            else:
                self._check_waiting(stream, now, commands)
        self.dispatch_waiting(now, commands)
        if self.waiting and self.pool.is_empty():
            commands.append(Wake(self._model))

    def dispatch_waiting(self, now: float, commands: list[Command]) -> None:
        """Send what waits to replicas that have room. Call it after whatever may have made room."""
        if self._parked:
            self._unpark(now)
        queue = self.queue
        while (stream_id := queue.head(now)) is not None:
            stream = self.streams[stream_id]
            if stream.failed or self._too_late(stream, now):
                queue.remove(stream_id)
                if not stream.failed:
                    self._fail(stream, DeadlineExceeded("The deadline passed."), commands)
                continue
            engine = pick(self.candidates(now, stream.avoid), self._rng)
            if engine is None:
                break
            cost = queue.take(stream_id, now).cost
            if stream.charged is None:
                stream.charged = cost
            self._dispatch(stream, engine, now, commands)
        self.drain.backlogged(len(queue) > 0 and bool(self.pool.ready()), now)

    # --- attempts

    def _dispatch(self, stream: RoutedStream, engine: EngineView, now: float, commands: list[Command]) -> None:
        engine_id = engine.engine_id
        stream.engine_id = engine_id
        stream.attempt += 1
        stream.permit = self.policies.dispatched(engine_id, now, stream.prompt_tokens + stream.output_tokens)
        stream.output_ahead = stream.remaining_output
        stream.leased_tokens = stream.prompt_tokens + stream.output_ahead
        stream.awaited_tokens = stream.prompt_tokens + stream.output_tokens
        engine.awaiting_tokens += stream.awaited_tokens
        stream.tokens_before_first = engine.awaiting_tokens
        stream.accepted = False
        stream.in_line = False
        stream.first_token_at = None
        stream.attempt_tokens = 0
        stream.dispatched_at = stream.check_at = now
        if stream.first_dispatched_at is None:
            stream.first_dispatched_at = now
        self.pool.lease(engine_id, stream.leased_tokens)
        self.budget.in_flight(stream.leased_tokens)
        commands.append(Dispatch(stream.stream_id, stream.attempt, engine_id, stream.replay))

    def _first_token(self, stream: RoutedStream, now: float) -> None:
        assert stream.permit is not None
        assert stream.engine_id is not None
        stream.first_token_at = now
        if stream.replay:
            self._give_back_budget(stream)  # what it repeats is computed
        ttft_s = now - stream.dispatched_at
        computed = stream.prompt_tokens + stream.output_tokens
        view = self.pool.view(stream.engine_id)
        if view is not None:
            self._no_longer_awaited(stream, view)
            if view.warm:
                self.timeouts.learn_first_token(ttft_s, computed, now)
                self.first_token_model.learn(stream.tokens_before_first, ttft_s)
        self.policies.first_token(stream.permit, ttft_s, computed, now)
        self.drain.departed(computed, now)

    @staticmethod
    def _no_longer_awaited(stream: RoutedStream, view: EngineView) -> None:
        view.awaiting_tokens -= stream.awaited_tokens
        stream.awaited_tokens = 0

    def _release(self, stream: RoutedStream, result: AttemptResult, now: float) -> None:
        """The present attempt is over: give back what it held."""
        assert stream.engine_id is not None
        assert stream.permit is not None
        self.policies.settled(stream.permit, result, now, stream.tpot_s)
        if stream.longest_gap_s > 0.0:
            self.timeouts.learn_gap(stream.longest_gap_s, now)
            stream.longest_gap_s = 0.0
        self.budget.in_flight(-stream.leased_tokens)
        self._give_back_budget(stream)
        engine_id, stream.engine_id, stream.permit = stream.engine_id, None, None
        if (view := self.pool.view(engine_id)) is not None:
            self._no_longer_awaited(stream, view)
        self.pool.release(engine_id, stream.prompt_tokens + stream.output_ahead)

    def _take_back(
        self,
        stream: RoutedStream,
        reason: RequeueReason,
        now: float,
        commands: list[Command],
        result: AttemptResult | None = None,
    ) -> None:
        wasted = stream.prompt_tokens + stream.output_tokens if stream.accepted else 0
        stream.avoid = stream.engine_id
        self._release(stream, result or _ATTEMPT_RESULTS[reason], now)
        if stream.accepted:
            stream.waiting_since = now
        commands.append(Withdraw(stream.stream_id, stream.attempt, reason, wasted))

    def _move(self, stream: RoutedStream, reason: RequeueReason, now: float, commands: list[Command]) -> None:
        """Take the attempt back and queue the stream again, with what it holds of the retry budget."""
        held, stream.budget_tokens = stream.budget_tokens, None
        self._take_back(stream, reason, now, commands)
        stream.budget_tokens = held
        self.queue.put_back(stream.as_waiting(), now)

    def _verdict(self, stream: RoutedStream, reason: RequeueReason, error: ServeAppError) -> ServeAppError | None:
        """The error with which a failed attempt ends the stream; None when it is tried again or goes on."""
        if not isinstance(error, EngineError) or isinstance(error, NotContinuable):
            return error
        failover = self._config.failover
        if self._costs_a_loss(stream, reason) and stream.losses >= failover.max_losses:
            return error
        if not stream.replay:
            tried_enough = reason is not RequeueReason.ENGINE_LOST and not self._backoff.may_retry(stream.retries)
            return error if tried_enough else None
        if not failover.enabled:
            return error
        if not stream.offer.continuable:
            return NotContinuable("The engine replica was lost, and an answer of several choices cannot be continued.")
        return None

    def _costs_a_loss(self, stream: RoutedStream, reason: RequeueReason) -> bool:
        """Whether this failed attempt counts against `max_losses`: its replica died of it, or failed what had begun."""
        return stream.accepted if reason is RequeueReason.ENGINE_LOST else stream.replay

    def _park(self, stream: RoutedStream, delay_s: float, now: float, commands: list[Command]) -> None:
        stream.not_before = now + delay_s
        self._parked[stream.stream_id] = stream
        if delay_s > 0.0:
            commands.append(TickAt(stream.not_before))

    def _unpark(self, now: float) -> None:
        """Queue again, ahead of new work, those whose pause is over and for whom there is budget; who came first is not
        passed over for another one that needs less."""
        for stream_id, stream in list(self._parked.items()):
            if stream.failed:
                del self._parked[stream_id]
            elif now >= stream.not_before:
                if not self._take_budget(stream):
                    return
                del self._parked[stream_id]
                self.queue.put_back(stream.as_waiting(), now)

    def _take_budget(self, stream: RoutedStream) -> bool:
        tokens = stream.repeated_tokens
        if not self.budget.try_take(tokens):
            return False
        stream.budget_tokens = tokens
        return True

    def _give_back_budget(self, stream: RoutedStream) -> None:
        if stream.budget_tokens is not None:
            self.budget.give_back(stream.budget_tokens)
            stream.budget_tokens = None

    # --- overdue

    def _check_attempt(self, stream: RoutedStream, engine_id: str, now: float, commands: list[Command]) -> None:
        view = self.pool.view(engine_id)
        if view is None:
            return
        finding, stream.check_at = self._watchdog.look(stream, view, now)
        match finding:
            case None:
                return
            case Finding.NOT_DISPATCHED:
                error = self._refusals.no_engine("No engine answered in time.")
                self._fail(stream, error, commands, RefusalReason.NO_ENGINE)
            case Finding.NOT_ACCEPTED:
                if self._another_has_room(engine_id, now):
                    self._move(stream, RequeueReason.NOT_ACCEPTED, now, commands)
                    self.dispatch_waiting(now, commands)
            case Finding.NO_FIRST_TOKEN:
                if self._backoff.may_retry(stream.retries) and self._may_move(stream, engine_id, now):
                    self.timeouts.first_token_timed_out()
                    stream.retries += 1
                    self._move(stream, RequeueReason.FIRST_TOKEN_TIMEOUT, now, commands)
                    self.dispatch_waiting(now, commands)
            case Finding.STALLED | Finding.DRAINING | Finding.STUCK:
                self._hand_over(stream, engine_id, finding, now, commands)

    def _hand_over(
        self, stream: RoutedStream, engine_id: str, finding: Finding, now: float, commands: list[Command]
    ) -> None:
        """Have another replica go on, or start where there is no token yet; end the stream if that is its last hope."""
        drains = finding is Finding.DRAINING
        gone_by = "The engine replica was removed." if drains else "The engine stopped giving tokens."
        error = EngineLost(gone_by) if drains else StreamStalled(gone_by)
        failover = self._config.failover
        may_go_on = not stream.replay or (failover.enabled and stream.offer.continuable)
        if not drains and stream.losses >= failover.max_losses:
            may_go_on = False
        if may_go_on and self._may_move(stream, engine_id, now):
            stream.last_error = error
            stream.losses += not drains
            self._move(stream, RequeueReason.DRAINING if drains else RequeueReason.STALLED, now, commands)
            self.dispatch_waiting(now, commands)
        elif finding is Finding.STUCK:
            self._release(stream, AttemptResult.STALLED, now)
            self._fail(stream, error, commands)

    def _may_move(self, stream: RoutedStream, engine_id: str, now: float) -> bool:
        """Whether another replica has room for a repeat now, and the budget too; takes from the budget if so.

        A silent stream is not given up for a place in the queue: it may yet go on. So whoever moves is dispatched at
        once, before the next one looks for room.
        """
        if not self._another_has_room(engine_id, now):
            return False
        # Who repeats already goes on doing so, with what was taken for it.
        return stream.budget_tokens is not None or self._take_budget(stream)

    def _another_has_room(self, engine_id: str, now: float) -> bool:
        return any(view.engine_id != engine_id for view in self.candidates(now))

    def _check_waiting(self, stream: RoutedStream, now: float, commands: list[Command]) -> None:
        if not self.pool.ready():
            if self._wake_bound.held_too_long(stream.waiting_since, now):
                error = stream.last_error or self._refusals.no_engine(f"No engine is ready to serve {self._model!r}.")
                self._fail(stream, error, commands, RefusalReason.NO_ENGINE)
            return
        admission = self._config.admission
        if stream.in_line:
            stream.in_line = self.queue.waits_in_line(stream.stream_id)
        limit_s = admission.in_line_timeout_s if stream.in_line else admission.queue_timeout_s
        if now - self._wake_bound.queued_since(stream.waiting_since) >= limit_s:
            message = f"No place was free within {limit_s:g} s."
            error = stream.last_error or self._refusals.queue_full(stream.offer.priority, message, now)
            self._fail(stream, error, commands, RefusalReason.WAITED)

    # --- ends

    def _too_late(self, stream: RoutedStream, now: float) -> bool:
        return stream.offer.deadline is not None and now >= stream.offer.deadline

    def _fail(
        self, stream: RoutedStream, error: ServeAppError, commands: list[Command], refusal: RefusalReason | None = None
    ) -> None:
        """Order the end of a stream; its place is given back when the shell reports `Ended`."""
        if not stream.failed:
            stream.failed = True
            commands.append(Fail(stream.stream_id, error, refusal))
