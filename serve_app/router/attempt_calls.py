"""The engine calls of running streams: each attempt is one call, held for as long as its generation lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve_app.core.errors import (
    EngineFull,
    EngineLost,
    InternalError,
    NotContinuable,
    Rejected,
    ServeAppError,
)
from serve_app.core.interfaces import Clock
from serve_app.core.request import GenerationRequest
from serve_app.router.background import BackgroundTasks
from serve_app.router.decisions.messages import (
    AttemptFailed,
    Dispatch,
    DispatchRefused,
    EngineGone,
    Happened,
    Withdraw,
)
from serve_app.router.engine_caller import EngineCaller
from serve_app.router.gap_reader import GapReader
from serve_app.router.streams.running_stream import RunningStream
from serve_app.router.streams.second_attempt import SecondAttempt
from serve_app.telemetry.reasons import HedgeOutcome, RequeueReason
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint, ReplyTo

LATE_EVENTS_S = 0.25
"""Time that events may still travel after their generation's call returned."""


class AttemptCalls:
    """Starts and cancels calls as the core orders, and tells it how they went. Used from one event loop."""

    def __init__(
        self,
        caller: EngineCaller,
        gaps: GapReader,
        tasks: BackgroundTasks,
        clock: Clock,
        tell: Callable[[Happened], None],
        deliver: Callable[[str, Sequence[WireEvent]], None],
    ) -> None:
        """`tell` is told how calls went; `deliver(engine_id, events)` takes events as if the channel had brought
        them."""
        self._caller = caller
        self._gaps = gaps
        self._tasks = tasks
        self._clock = clock
        self._tell = tell
        self._deliver = deliver
        self._calls: dict[int, asyncio.Task[None]] = {}
        self.endpoint: ChannelEndpoint | None = None
        """Where engines send events to; set before anything is dispatched."""

    def running(self) -> list[asyncio.Task[None]]:
        """The calls of present attempts that are under way."""
        return list(self._calls.values())

    # --- orders

    def dispatch(self, stream: RunningStream, order: Dispatch) -> None:
        """Start the stream's present attempt."""
        stream.dispatched(order.attempt, order.engine_id, order.group)
        stream.metrics.dispatched(self._clock(), order.engine_id, order.replay)
        try:
            request = attempt_request(stream, order.replay, self._clock())
        except NotContinuable as error:
            self._tell(AttemptFailed(stream.stream_id, order.attempt, error))
        else:
            self._calls[stream.stream_id] = self._start(stream, order, request)

    def hedge(self, stream: RunningStream, order: Dispatch) -> None:
        """Start a second attempt beside the present one."""
        stream.metrics.hedged(order.engine_id)
        stream.second = second = SecondAttempt(order.attempt, order.engine_id, order.group)
        second.call = self._start(stream, order, attempt_request(stream, False, self._clock()))

    def withdraw(self, stream: RunningStream, order: Withdraw) -> None:
        """Cancel one attempt; if there are two, the other goes on alone."""
        second = stream.second
        outrun = order.reason is RequeueReason.OUTRUN
        if second is None:
            stream.metrics.requeued(order.reason, order.wasted_tokens)
            self._cancel(stream)
            stream.withdrawn()
        elif order.attempt == second.number:
            self._drop_second(stream, second, HedgeOutcome.LOST if outrun else HedgeOutcome.FAILED, order.reason)
        else:
            stream.metrics.hedge_settled(HedgeOutcome.WON, order.reason, order.wasted_tokens)
            self._cancel(stream)
            self._promote(stream, second)

    def ended(self, stream: RunningStream) -> None:
        """The stream is over: cancel what still runs for it. A completed one's call returns by itself."""
        call = self._calls.pop(stream.stream_id, None)
        if call is not None and not stream.completed:
            call.cancel()
        if stream.second is not None:
            outcome = HedgeOutcome.LOST if stream.completed else HedgeOutcome.UNDECIDED
            self._drop_second(stream, stream.second, outcome, RequeueReason.OUTRUN)

    # --- two attempts

    def _promote(self, stream: RunningStream, second: SecondAttempt) -> None:
        stream.second = None
        stream.dispatched(second.number, second.engine_id, second.group)
        if second.call is not None:
            self._calls[stream.stream_id] = second.call
            if second.call.done():  # nobody looked whether all of its events came: they were not the stream's yet
                self._tasks.spawn(self._gaps.fill(second.engine_id, [stream]))
        events = [(stream.stream_id, second.number, seq, event) for seq, event in second.events]
        self._deliver(second.engine_id, events)

    def _drop_second(
        self, stream: RunningStream, second: SecondAttempt, outcome: HedgeOutcome, reason: RequeueReason
    ) -> None:
        stream.second = None
        stream.metrics.hedge_settled(outcome, reason, second.prompt_tokens)
        second.cancel()

    # --- calls

    def _start(self, stream: RunningStream, order: Dispatch, request: GenerationRequest) -> asyncio.Task[None]:
        def failed() -> None:
            # Whatever it was, the watchdog must not be the one to find out.
            self._tell(
                AttemptFailed(stream.stream_id, order.attempt, InternalError("The server had an internal error."))
            )

        return self._tasks.spawn(self._call(stream, order, request), failed)

    def _cancel(self, stream: RunningStream) -> None:
        call = self._calls.pop(stream.stream_id, None)
        if call is not None and call is not asyncio.current_task():  # which tells of its own end just now
            call.cancel()

    async def _call(self, stream: RunningStream, order: Dispatch, request: GenerationRequest) -> None:
        """Hold the engine call for as long as the generation lasts. The channel ends the stream, not the call."""
        assert self.endpoint is not None
        attempt, engine_id = order.attempt, order.engine_id
        try:
            reply_to = ReplyTo(self.endpoint, stream.stream_id, attempt)
            sent = await self._caller.generate(engine_id, order.group, request, reply_to)
        except Rejected as rejected:
            full = isinstance(rejected, EngineFull)
            reason = RequeueReason.ENGINE_FULL if full else RequeueReason.WRONG_REPLICA
            self._tell(DispatchRefused(stream.stream_id, attempt, reason))
        except EngineLost as lost:
            self._tell(EngineGone(engine_id, lost))
        except ServeAppError as error:
            self._tell(AttemptFailed(stream.stream_id, attempt, error))
        else:
            if stream.takes(attempt) and stream.next_seq < sent:
                await asyncio.sleep(LATE_EVENTS_S)
                if stream.takes(attempt):
                    await self._gaps.fill(engine_id, [stream])


def attempt_request(stream: RunningStream, replay: bool, now: float) -> GenerationRequest:
    """What the replica is asked: the request with the time that is left, and with `replay` where its output stands.

    Raises `NotContinuable`.
    """
    request = stream.request
    timeout_s = None if stream.deadline is None else max(0.0, stream.deadline - now)
    if not replay:
        return request if timeout_s is None else replace(request, timeout_s=timeout_s)
    if stream.kept is not None:
        stream.flush()
        return stream.kept.continued(timeout_s)
    if stream.record is None:
        raise NotContinuable("The engine replica was lost, and the output cannot be continued.")
    return stream.record.continued(request, timeout_s)
