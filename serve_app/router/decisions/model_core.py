"""The router's judgement for one model: admission, dispatch, recovery and what is overdue, put together.

Pure: clock readings (`now`, seconds, never running back) and the random source are handed in; what is to be done goes
to the outbox.
"""

from __future__ import annotations

from dataclasses import replace

from serve_app.core.errors import ChannelLost, EngineLost
from serve_app.core.interfaces import RateLimitState, Rng
from serve_app.core.request import Priority
from serve_app.resilience.admission_queue import AdmissionQueue
from serve_app.resilience.drain_rate import DrainRate
from serve_app.resilience.fair_band import Offered
from serve_app.resilience.wake_bound import WakeBound
from serve_app.router.decisions.attempts import Attempts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.hedges import Hedges
from serve_app.router.decisions.messages import (
    AttemptFailed,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    EngineReported,
    Fail,
    Happened,
    HedgeWon,
    Offer,
    ReplicasListed,
    RoomMade,
    Tick,
    Wake,
)
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.overdue import Overdue
from serve_app.router.decisions.recovery import Recovery
from serve_app.router.decisions.refusals import Refusals
from serve_app.router.decisions.replica_policies import AttemptResult
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.router.decisions.waiting_streams import WaitingStreams
from serve_app.telemetry.reasons import RefusalReason, RequeueReason

_EXPECTATION_WEIGHT = 0.05
LONGEST_LOAD_WAITED_S = 1800.0
"""Bound of the time that requests wait for a model that loads, however long it was seen to take."""


class ModelCore:
    """Single-threaded. Every stream gets exactly one end; each lease, permit and budget is given back once."""

    def __init__(self, model: str, config: DecisionsConfig, rng: Rng, outbox: Outbox) -> None:
        self._model = model
        self._outbox = outbox
        self.streams: dict[int, StreamLedger] = {}
        self._outran: list[StreamLedger] = []
        """Streams whose first attempt gave a token while the second one ran."""
        self._expected_output = float(config.expected_output_tokens)
        self._hedging = config.hedging.enabled
        self.queue = AdmissionQueue(config.admission)
        self.drain = DrainRate()
        self.attempts = attempts = Attempts(config, self.drain, rng)
        self.pool, self.policies, self.budget = attempts.pool, attempts.policies, attempts.budget
        self.waiting = waiting = WaitingStreams(self.streams, self.queue, self.drain, attempts, rng, outbox)
        self._wake_bound = WakeBound(config.no_engine_timeout_s, LONGEST_LOAD_WAITED_S)
        self._hedges = hedges = Hedges(config, attempts, rng, outbox)
        self._refusals = refusals = Refusals(config, self.queue, self.drain, rng, attempts.first_token_model)
        self._recovery = recovery = Recovery(config, attempts, hedges, waiting, rng, outbox)
        self._overdue = Overdue(config, attempts, hedges, waiting, recovery, refusals, self._wake_bound, outbox)

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

    # --- what happens

    def handle(self, happened: Happened, now: float) -> None:
        """Take what happened to this model, its replicas or one of its streams. What old attempts tell is void."""
        if self._outran:
            self._drop_outrun(now)
        match happened:
            case Offer():
                self._offered(happened, now)
            case Ended():
                self._ended(happened, now)
                self.waiting.dispatch(now)
            case EngineAccepted() | DispatchRefused() | AttemptFailed() | HedgeWon():
                found = self._running(happened.stream_id, happened.attempt)
                if found is not None:
                    self._attempt_told(happened, *found, now)
            case EngineReported(status):
                self.pool.report(status, now)
                self.policies.reported(status, now)
                self._replicas_changed(now)
            case ReplicasListed():
                self.pool.list_replicas(happened.engine_ids, now, happened.group)
                self._replicas_changed(now)
            case EngineGone():
                self._engine_gone(happened, now)
                self._replicas_changed(now)
            case RoomMade():
                if self.waiting.count:
                    self.waiting.dispatch(now)
            case Tick():
                self._ticked(now)

    def tokens_received(self, stream: StreamLedger, count: int, now: float) -> bool:
        """See `RouterCore.tokens_received`."""
        if not self.attempts.received(stream, count, now):
            return False
        if stream.hedge is None:
            return self.waiting.count > 0
        self._outran.append(stream)
        return True

    # --- streams begin and end

    def _offered(self, offer: Offer, now: float) -> None:
        """Start the stream at once, queue it, or refuse it."""
        max_model_len = self.pool.max_model_len()
        if (too_long := self._refusals.too_long(offer, max_model_len)) is not None:
            self._outbox.order(too_long)
            return
        if max_model_len is not None and offer.prompt_tokens > max_model_len:
            # By estimate only: an engine has to look. It computes no more than the window holds, and waits for no more.
            offer = replace(offer, prompt_tokens=max_model_len)
        expected = int(self._expected_output)
        if offer.max_tokens is not None:
            expected = min(expected, offer.max_tokens)
        stream = StreamLedger(offer, expected * offer.choices, now, prompt_tokens=offer.prompt_tokens)
        if offer.taken_over is not None:
            self._taken_over(stream, offer.taken_over, now)
            return
        if self._hedging and offer.hedgeable:
            stream.wanted_at = self._hedges.wanted_at(offer, now)
        ready = self.pool.ready()
        refusal = self._refusals.hopeless(offer, ready, now)
        if refusal is not None:
            self._outbox.order(refusal)
            return
        if self.waiting.start_at_once(stream, now, ready):
            self.streams[offer.stream_id] = stream
            return
        result = self.queue.offer(stream.as_waiting(), now)
        if result.offered is Offered.REFUSED:
            error = self._refusals.queue_full(offer.priority, "The waiting queue is full.", now)
            self._outbox.order(Fail(offer.stream_id, error, RefusalReason.QUEUE_FULL))
            return
        for stream_id in result.displaced:
            message = "Its place in the waiting queue went to a tenant below its fair share."
            error = self._refusals.queue_full(offer.priority, message, now)
            self._outbox.fail(self.streams[stream_id], error, RefusalReason.DISPLACED)
        stream.in_line = result.offered is Offered.IN_LINE
        self.streams[offer.stream_id] = stream
        self.waiting.dispatch(now)
        self._wake_if_asleep()

    def _taken_over(self, stream: StreamLedger, output_tokens: int, now: float) -> None:
        """Go on with what another router had admitted, as after the loss of a replica: ahead of new work, and within
        the retry budget, or the death of a router would become a storm."""
        stream.output_tokens = output_tokens
        stream.begun = output_tokens > 0
        stream.charged = 0.0  # its tenant pays here when it has ended
        self.streams[stream.stream_id] = stream
        if stream.begun:
            self.waiting.park(stream, 0.0, now)
        else:
            self.waiting.put_back(stream, now)
        self.waiting.dispatch(now)

    def _ended(self, ended: Ended, now: float) -> None:
        """The stream is over for its client."""
        stream = self.streams.pop(ended.stream_id)
        if stream.hedge is not None:
            self._hedges.release(stream, now)
        if stream.engine_id is not None:
            result = AttemptResult.SUCCEEDED if ended.completed else AttemptResult.CANCELLED
            self.attempts.release(stream, result, now)
        else:
            self.waiting.remove(stream.stream_id)
            self.attempts.give_back_budget(stream)
        if stream.charged is not None:
            self.queue.correct(stream.offer.tenant, stream.real_cost - stream.charged, stream.offer.priority)
        if ended.completed:
            of_each = stream.output_tokens / stream.offer.choices
            self._expected_output += _EXPECTATION_WEIGHT * (of_each - self._expected_output)

    # --- attempts

    def _running(self, stream_id: int, attempt: int) -> tuple[StreamLedger, StreamLedger] | None:
        """The stream, and what holds this attempt: the stream itself, or its second attempt."""
        stream = self.streams[stream_id]
        if stream.attempt == attempt:
            return stream, stream
        hedge = stream.hedge
        return (stream, hedge) if hedge is not None and hedge.attempt == attempt else None

    def _attempt_told(
        self,
        told: EngineAccepted | DispatchRefused | AttemptFailed | HedgeWon,
        stream: StreamLedger,
        attempt: StreamLedger,
        now: float,
    ) -> None:
        first = attempt is stream
        match told:
            case EngineAccepted():
                self.attempts.accepted(attempt, told.prompt_tokens)
                return
            case HedgeWon():
                if not first and not stream.failed:
                    self._hedges.take_over(stream, RequeueReason.OUTRUN, AttemptResult.CANCELLED, now)
                return
            case DispatchRefused() if first:
                self._recovery.refused(stream, told.reason, now)
            case DispatchRefused():
                self._recovery.hedge_failed(stream, told.reason, now)
            case AttemptFailed():
                lost = isinstance(told.error, EngineLost | ChannelLost)
                reason = RequeueReason.ENGINE_LOST if lost else RequeueReason.ENGINE_FAILED
                if first:
                    self._recovery.attempt_failed(stream, reason, told.error, now)
                else:
                    self._recovery.hedge_failed(stream, reason, now)
        self.waiting.dispatch(now)

    def _drop_outrun(self, now: float) -> None:
        for stream in self._outran:
            if stream.stream_id in self.streams and stream.hedge is not None:
                self._hedges.drop(stream, RequeueReason.OUTRUN, AttemptResult.CANCELLED, now)
        self._outran.clear()

    # --- replicas and time

    def _engine_gone(self, gone: EngineGone, now: float) -> None:
        """A replica died or fell silent: its streams go elsewhere."""
        engine_id = gone.engine_id
        self.pool.gone(engine_id)
        for stream in [s for s in self.streams.values() if s.hedge is not None and s.hedge.engine_id == engine_id]:
            self._recovery.hedge_failed(stream, RequeueReason.ENGINE_LOST, now)
        for stream in [s for s in self.streams.values() if s.engine_id == engine_id]:
            self._recovery.attempt_failed(stream, RequeueReason.ENGINE_LOST, gone.error, now)

    def _replicas_changed(self, now: float) -> None:
        """A replica reported, came or went: use what there is now."""
        self._wake_bound.looked(bool(self.pool.ready()), self.waiting.count > 0, now)
        self.waiting.dispatch(now)

    def _ticked(self, now: float) -> None:
        """Act on what is overdue."""
        self.attempts.look_again()
        self.policies.watch(now)
        self._wake_bound.looked(bool(self.pool.ready()), self.waiting.count > 0, now)
        for stream in list(self.streams.values()):
            self._overdue.look(stream, now)
        self.waiting.dispatch(now)
        if self.waiting.count:
            self._wake_if_asleep()

    def _wake_if_asleep(self) -> None:
        if self.pool.is_empty():
            self._outbox.order(Wake(self._model))
