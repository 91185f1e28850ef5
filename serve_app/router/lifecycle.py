"""The life of a request in a router replica: offer, dispatch, stream, settle. Carries out what the core decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from serve_app.core.cut_text import cut
from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import (
    ChannelLost,
    EngineFull,
    EngineLost,
    ModelNotFound,
    NotContinuable,
    Rejected,
    ServeAppError,
    StreamTakenOver,
)
from serve_app.core.interfaces import Clock, ModelCard, RateLimitState
from serve_app.core.outcome import RequestOutcome
from serve_app.core.prompt_size import least_tokens
from serve_app.core.request import GenerationRequest, Priority
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import (
    AttemptFailed,
    Command,
    Dispatch,
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
    TickAt,
    Wake,
    Withdraw,
)
from serve_app.router.engine_caller import EngineCaller
from serve_app.router.engine_upkeep import EngineUpkeep
from serve_app.router.shown_state import show
from serve_app.router.streams.kept_answer import KeptAnswer
from serve_app.router.streams.running_stream import RunningStream
from serve_app.router.streams.second_attempt import SecondAttempt
from serve_app.router.token_estimate import TokenEstimate
from serve_app.telemetry.logging import RequestLog
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.reasons import HedgeOutcome, RequeueReason, ResumedFrom
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo

TICK_S = 0.1
LOOK_AFTER_EVERY_TICKS = 5
_LATE_EVENTS_S = 0.25
"""Time that events may still travel after their generation's call returned."""

logger = logging.getLogger(__name__)


class RouterLifecycle:
    """Admits requests and turns each into a stream. Everything runs on one event loop.

    It is the token channel's listener, the owner of the streams, and what the ingress calls.
    """

    def __init__(
        self,
        cards: Iterable[ModelCard],
        config: RouterConfig,
        caller: EngineCaller,
        metrics: ServeMetrics,
        log: RequestLog,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._cards = {card.id: card for card in cards}
        self._config = config
        self._caller = caller
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._core = RouterCore(self._cards, config, rng or random.Random())
        self._estimates = {model: TokenEstimate() for model in self._cards}
        self._streams: dict[int, RunningStream] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._upkeep = EngineUpkeep(caller)
        self._newest_id = 0
        self._commands: deque[Command] = deque()
        self._carrying_out = False
        self._room_made = False
        self._with_events: list[RunningStream] = []
        self._endpoint: ChannelEndpoint | None = None
        self.coarse_now = clock()
        self.gaps = 0
        """Times that events had to be read again from an engine's retained log."""
        self.silences = 0
        """Times that an engine fell silent."""

    async def start(self, endpoint: ChannelEndpoint) -> None:
        """Begin to dispatch; engines are told to send to `endpoint`."""
        self._endpoint = endpoint
        self._spawn(self._tick())

    async def close(self) -> None:
        """End every stream and call. Engines are told nothing: they go on with retained streams, for other routers."""
        for stream in list(self._streams.values()):
            stream.end(EngineLost("The router shut down."))
        tasks = [*self._tasks, *self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._caller.close()

    # --- what the ingress calls (core.interfaces.Router, less the metrics page)

    def open(
        self,
        request: GenerationRequest,
        retained: KeptAnswer | None = None,
        taken_from: ResumedFrom | None = None,
    ) -> RunningStream:
        """See `core.interfaces.Router.open`. With `retained`, events go there, and the output goes on where it stands;
        `taken_from` says who had it before, if another one had."""
        if request.model not in self._cards:
            unknown = self._unknown(request.model)
            self._metrics.not_offered(unknown.outcome)
            self._log.not_offered(request, unknown)
            raise unknown
        now = self._clock()
        metrics = self._metrics.offered(request.model, now, request.sampling.n, request.priority)
        self._newest_id += 1
        stream = RunningStream(self._newest_id, request, self, metrics, self._config.stream_buffer_bytes)
        self._streams[stream.stream_id] = stream
        if retained is not None:
            stream.keep_in(retained)
        if taken_from is not None:
            metrics.taken_over(taken_from, stream.prompt_tokens, stream.output_tokens, now)
        prompt_tokens = stream.prompt_tokens or self._estimates[request.model].tokens(request.prompt, request.tenant)
        stream.deadline = deadline = None if request.timeout_s is None else now + request.timeout_s
        offer = Offer(
            stream.stream_id,
            request.model,
            prompt_tokens,
            request.sampling.max_tokens,
            deadline,
            request.tenant,
            request.priority,
            stream.record is not None,
            stream.output_tokens if taken_from is not None else None,
            hedgeable=request.retention is None,  # or engines would retain two answers
            least_prompt_tokens=least_tokens(request.prompt, self._core.pool(request.model).max_token_bytes()),
        )
        self._handle(offer, now)
        return stream

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        """See `core.interfaces.Router.turned_away`."""
        self._metrics.not_offered(error.outcome)
        self._log.turned_away(request_id, tenant, error)

    def models(self) -> Sequence[ModelCard]:
        """See `core.interfaces.Router.models`."""
        return [
            ModelCard(card.id, card.created, self._core.pool(card.id).max_model_len()) for card in self._cards.values()
        ]

    def can_admit(self) -> bool:
        """See `core.interfaces.Router.can_admit`."""
        return self._core.can_admit(self._clock())

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        """See `core.interfaces.Router.rate_limits`."""
        if model not in self._cards:
            raise self._unknown(model)
        return self._core.rate_limits(model, priority, self._clock())

    # --- what Serve tells

    def replicas_listed(self, model: str, engine_ids: frozenset[str]) -> None:
        """Serve's list of running replicas of `model` changed: new ones are told to attach."""
        self._handle(ReplicasListed(model, engine_ids))
        self._look_after_engines()

    def replica_died(self, engine_id: str) -> None:
        """Serve saw the replica's actor die."""
        self._handle(EngineGone(engine_id, EngineLost("The engine replica died.")))

    # --- what the token channel tells (token_channel.receiver.ChannelListener)

    def on_events(self, engine_id: str, events: Sequence[WireEvent]) -> None:
        """One batch of events, in order."""
        self.coarse_now = self._clock()
        streams = self._streams
        for stream_id, attempt, seq, event in events:
            stream = streams.get(stream_id)
            if stream is not None:
                stream.deliver(attempt, seq, event)
        if self._with_events:
            waiting, self._with_events = self._with_events, []
            for stream in waiting:
                stream.flush()
        if self._room_made:
            self._room_made = False
            self._handle(RoomMade())

    def on_status(self, status: EngineStatus) -> None:
        """A heartbeat."""
        self._handle(EngineReported(status))

    def on_silent(self, engine_id: str) -> None:
        """No heartbeat came in time."""
        logger.warning("engine %s is silent on the token channel", engine_id)
        self.silences += 1
        self._handle(EngineGone(engine_id, ChannelLost("The token channel to the engine went silent.")))

    def on_loss(self, engine_id: str) -> None:
        """A message of the engine went missing: look after every stream that it runs."""
        for stream in list(self._streams.values()):
            if stream.engine_id == engine_id:
                self._spawn(self._fill_gap(stream, stream.attempt))

    # --- what streams tell (stream.StreamOwner)

    def stream_position(self, stream: RunningStream) -> int | None:
        """Requests ahead of it in the queue."""
        return self._core.queue_position(stream.stream_id)

    def stream_accepted(self, stream: RunningStream) -> None:
        """The engine took it and counted its prompt."""
        self._estimates[stream.request.model].learn(stream.request.prompt, stream.prompt_tokens, stream.request.tenant)
        stream.metrics.accepted(stream.prompt_tokens)
        self._handle(EngineAccepted(stream.stream_id, stream.attempt, stream.prompt_tokens))

    def stream_progressed(self, stream: RunningStream, tokens: int) -> None:
        """`tokens` new tokens came."""
        stream.metrics.on_tokens(tokens, self.coarse_now)
        if self._core.tokens_received(stream.stream_id, tokens, self.coarse_now):
            self._room_made = True

    def stream_failed(self, stream: RunningStream, error: ServeAppError) -> None:
        """The engine failed the present attempt: it may be tried again, or another replica may go on."""
        self._handle(AttemptFailed(stream.stream_id, stream.attempt, error))

    def second_accepted(self, stream: RunningStream, second: SecondAttempt) -> None:
        """The engine took its second attempt and counted the prompt."""
        self._handle(EngineAccepted(stream.stream_id, second.number, second.prompt_tokens))

    def second_failed(self, stream: RunningStream, second: SecondAttempt, error: ServeAppError) -> None:
        """The engine failed its second attempt."""
        self._handle(AttemptFailed(stream.stream_id, second.number, error))

    def second_won(self, stream: RunningStream, second: SecondAttempt) -> None:
        """Its second attempt gave the first token; the core withdraws the first one."""
        self._handle(HedgeWon(stream.stream_id, second.number))

    def stream_has_gap(self, stream: RunningStream) -> None:
        """Events were lost on the way."""
        self._spawn(self._fill_gap(stream, stream.attempt))

    def stream_has_events(self, stream: RunningStream) -> None:
        """It has events for its sink."""
        self._with_events.append(stream)

    def stream_ended(self, stream: RunningStream) -> None:
        """Settle: once per stream, whatever ended it."""
        del self._streams[stream.stream_id]
        call = self._calls.pop(stream.stream_id, None)
        if call is not None and not stream.completed:
            call.cancel()
        if stream.second is not None:
            self._drop_second(stream, HedgeOutcome.LOST if stream.completed else HedgeOutcome.UNDECIDED)
        self._handle(Ended(stream.stream_id, stream.output_tokens, stream.completed))
        if stream.retained is not None and not stream.completed:
            self._end_at_engine(stream)
        if isinstance(stream.error, StreamTakenOver):  # counted where it ends
            stream.metrics.handed_over()
            self._log.handed_over(stream.request, stream.metrics, stream.engine_id)
            return
        outcome = _outcome(stream)
        stream.metrics.settled(outcome, self._clock(), stream.cached_tokens)
        self._log.settled(stream.request, stream.metrics, outcome, stream.engine_id, stream.error)

    # --- carrying out commands

    def _handle(self, happened: Happened, now: float | None = None) -> None:
        """Tell the core, and carry out what it orders.

        Carrying out a command may make something else happen, as the end of a stream: what that orders comes after
        everything ordered before, or a `Withdraw` would meet the call of a later `Dispatch`.
        """
        self._commands.extend(self._core.handle(happened, self._clock() if now is None else now))
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._commands:
                self._carry_out(self._commands.popleft())
        finally:
            self._carrying_out = False

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Wake):
            self._caller.wake(command.model)
            return
        if isinstance(command, TickAt):
            asyncio.get_running_loop().call_later(max(0.0, command.at - self._clock()), self._handle, Tick())
            return
        stream = self._streams.get(command.stream_id)
        if stream is None:  # it ended while the command waited, and the core knows
            return
        match command:
            case Dispatch(hedge=True):
                self._hedge(stream, command)
            case Dispatch():
                stream.dispatched(command.attempt, command.engine_id)
                stream.metrics.dispatched(self._clock(), command.engine_id, command.replay)
                try:
                    request = self._request_of(stream, command.replay)
                except NotContinuable as error:
                    self.stream_failed(stream, error)
                else:
                    self._calls[stream.stream_id] = asyncio.create_task(self._call(stream, command, request))
            case Withdraw() if stream.second is not None:
                self._withdraw_one(stream, command)
            case Withdraw():
                stream.metrics.requeued(command.reason, command.wasted_tokens)
                call = self._calls.pop(stream.stream_id, None)
                if call is not None and call is not asyncio.current_task():
                    call.cancel()
            case Fail():
                stream.metrics.refused(command.refusal)
                stream.end(command.error)

    def _hedge(self, stream: RunningStream, command: Dispatch) -> None:
        """Start a second attempt beside the present one."""
        stream.metrics.hedged(command.engine_id)
        stream.second = second = SecondAttempt(command.attempt, command.engine_id)
        second.call = asyncio.create_task(self._call(stream, command, self._request_of(stream, replay=False)))

    def _withdraw_one(self, stream: RunningStream, command: Withdraw) -> None:
        """Cancel one of two attempts; the other goes on alone."""
        assert stream.second is not None
        outrun = command.reason is RequeueReason.OUTRUN
        if command.attempt == stream.second.number:
            self._drop_second(stream, HedgeOutcome.LOST if outrun else HedgeOutcome.FAILED, command.reason)
            return
        stream.metrics.hedge_settled(HedgeOutcome.WON, command.reason, command.wasted_tokens)
        call = self._calls.pop(stream.stream_id, None)
        if call is not None and call is not asyncio.current_task():
            call.cancel()
        if (going_on := stream.second.call) is not None:
            self._calls[stream.stream_id] = going_on
            if going_on.done():  # what it sent may have been lost
                self._spawn(self._fill_gap(stream, stream.second.number))
        stream.promote_second()

    def _drop_second(
        self, stream: RunningStream, outcome: HedgeOutcome, reason: RequeueReason = RequeueReason.OUTRUN
    ) -> None:
        second, stream.second = stream.second, None
        if second is not None:
            stream.metrics.hedge_settled(outcome, reason, second.prompt_tokens)
            second.cancel()

    def _request_of(self, stream: RunningStream, replay: bool) -> GenerationRequest:
        """What the replica is asked: the request with the time that is left, and where its output stands.

        Raises `NotContinuable`.
        """
        request = stream.request
        timeout_s = None if stream.deadline is None else max(0.0, stream.deadline - self._clock())
        if replay:
            if stream.record is None:
                raise NotContinuable("The engine replica was lost, and the output cannot be continued.")
            if stream.retained is not None and request.retention is not None:
                stream.flush()
                prior = stream.retained.log.parts()
                request = replace(request, retention=replace(request.retention, prior=prior))
            return stream.record.continued(request, timeout_s)
        return request if timeout_s is None else replace(request, timeout_s=timeout_s)

    async def _call(self, stream: RunningStream, command: Dispatch, request: GenerationRequest) -> None:
        """Hold the engine call for as long as the generation lasts. The channel ends the stream, not the call."""
        assert self._endpoint is not None
        attempt, engine_id = command.attempt, command.engine_id
        try:
            sent = await self._caller.generate(engine_id, request, ReplyTo(self._endpoint, stream.stream_id, attempt))
        except Rejected as rejected:
            full = isinstance(rejected, EngineFull)
            reason = RequeueReason.ENGINE_FULL if full else RequeueReason.WRONG_REPLICA
            self._handle(DispatchRefused(stream.stream_id, attempt, reason))
        except EngineLost as lost:
            self._handle(EngineGone(engine_id, lost))
        except ServeAppError as error:
            self._handle(AttemptFailed(stream.stream_id, attempt, error))
        else:
            if not stream.ended and stream.attempt == attempt and stream.next_seq < sent:
                await asyncio.sleep(_LATE_EVENTS_S)
                await self._fill_gap(stream, attempt)

    async def _fill_gap(self, stream: RunningStream, attempt: int) -> None:
        """Read events that may be lost again from the engine's retained log; without them the attempt has failed."""
        if stream.ended or stream.attempt != attempt or stream.engine_id is None or self._endpoint is None:
            return
        reply_to = ReplyTo(self._endpoint, stream.stream_id, attempt)
        model = stream.request.model
        try:
            events = await self._caller.read_log(stream.engine_id, model, reply_to, stream.next_seq)
        except ServeAppError as error:
            logger.warning("request %s: reading events again failed: %s", stream.request.request_id, error)
            events = None
        if events is not None:
            self.gaps += len(events) > 0
            self.on_events(stream.engine_id, events)
        elif stream.attempt == attempt:
            lost = ChannelLost("Part of the answer was lost between engine and router.")
            self._handle(AttemptFailed(stream.stream_id, attempt, lost))

    def _unknown(self, model: str) -> ModelNotFound:
        return ModelNotFound(f"The model {cut(model)!r} does not exist. Served: {', '.join(self._cards)}.", "model")

    def _live_streams(self, endpoint: ChannelEndpoint) -> LiveStreams:
        attempts = {stream.stream_id: stream.attempt for stream in self._streams.values()}
        return LiveStreams(endpoint.router_id, self._newest_id, attempts)

    def _look_after_engines(self) -> None:
        if self._endpoint is None:
            return
        live = self._live_streams(self._endpoint)
        for model in self._cards:
            for work in self._upkeep.due(model, self._core.pool(model), self._endpoint, live):
                self._spawn(work)

    def _end_at_engine(self, stream: RunningStream) -> None:
        """Tell the engine: it goes on with a retained generation whose call is cancelled, as by this router's death."""
        if stream.engine_id is not None and self._endpoint is not None:
            live = self._live_streams(self._endpoint)
            self._spawn(self._upkeep.keep_only(stream.engine_id, stream.request.model, live))

    async def _tick(self) -> None:
        for ticks in count():
            await asyncio.sleep(TICK_S)
            try:
                if ticks % LOOK_AFTER_EVERY_TICKS == 0:
                    self._look_after_engines()
                now = self.coarse_now = self._clock()
                self._handle(Tick(), now)
                for stream in list(self._streams.values()):
                    stream.wake_if_idle(now)
            except Exception:
                logger.exception("the router's tick failed")

    def publish_metrics(self) -> None:
        """Bring the gauges up to date; called before they are read."""
        show({model: self._core.model(model) for model in self._cards}, self._metrics, self._clock())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if (error := task.exception()) is not None:
                logger.error("a background task of the router failed", exc_info=error)


def _outcome(stream: RunningStream) -> RequestOutcome:
    if stream.error is not None:
        return stream.error.outcome
    return RequestOutcome.COMPLETED if stream.completed else RequestOutcome.CANCELLED
