"""One request's stream on the router side: orders its events, finds gaps, holds what the client has not read yet."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Protocol

from serve_app.core.errors import ClientTooSlow, InternalError, ServeAppError, fresh
from serve_app.core.events import Accepted, Failed, Finished, StreamEvent, TokenDelta
from serve_app.core.failures import error_of
from serve_app.core.interfaces import Sink
from serve_app.core.request import GenerationRequest
from serve_app.router.streams.kept_answer import KeptAnswer
from serve_app.router.streams.replay_record import ReplayRecord, why_not_continuable
from serve_app.router.streams.second_attempt import SecondAttempt
from serve_app.telemetry.stream_metrics import StreamMetrics

_EVENT_OVERHEAD_BYTES = 256
"""Memory of one held event beside its text."""

logger = logging.getLogger(__name__)


class StreamOwner(Protocol):
    """What a stream asks of its router."""

    def stream_ended(self, stream: RunningStream) -> None:
        """The stream is over; called exactly once."""

    def stream_position(self, stream: RunningStream) -> int | None:
        """Requests ahead of it in the queue."""

    def stream_accepted(self, stream: RunningStream) -> None:
        """The engine took it and counted its prompt."""

    def stream_progressed(self, stream: RunningStream, tokens: int) -> None:
        """`tokens` new tokens came."""

    def stream_failed(self, stream: RunningStream, error: ServeAppError) -> None:
        """The engine failed the present attempt."""

    def second_accepted(self, stream: RunningStream, second: SecondAttempt) -> None:
        """The engine took its second attempt and counted the prompt."""

    def second_failed(self, stream: RunningStream, second: SecondAttempt, error: ServeAppError) -> None:
        """The engine failed its second attempt."""

    def second_won(self, stream: RunningStream, second: SecondAttempt) -> None:
        """The second attempt gave the first token: call `promote_second`."""

    def stream_has_gap(self, stream: RunningStream) -> None:
        """Events are missing: read them from the engine's retained log."""

    def stream_has_events(self, stream: RunningStream) -> None:
        """There are events for its sink: call `flush` when the batch that they came with has been delivered."""

    @property
    def coarse_now(self) -> float:
        """Clock reading of the last tick or batch, in seconds."""


class RunningStream:
    """Implements `core.interfaces.TokenStream`. Made and used on the router's event loop, read by one task."""

    __slots__ = (
        "_buffer_limit",
        "_held_bytes",
        "_idle_at",
        "_loop",
        "_out_of_order",
        "_owner",
        "_pending",
        "_sink",
        "_timeout_s",
        "_unfinished_choices",
        "_waiter",
        "accepted",
        "attempt",
        "cached_tokens",
        "deadline",
        "ended",
        "engine_id",
        "error",
        "metrics",
        "next_seq",
        "output_tokens",
        "prompt_tokens",
        "record",
        "request",
        "retained",
        "second",
        "stream_id",
    )

    def __init__(
        self,
        stream_id: int,
        request: GenerationRequest,
        owner: StreamOwner,
        metrics: StreamMetrics,
        buffer_limit: int,
    ) -> None:
        self.stream_id = stream_id
        self.request = request
        self.metrics = metrics
        self.deadline: float | None = None
        self.record = None if why_not_continuable(request) else ReplayRecord()
        self.attempt = 0
        self.engine_id: str | None = None
        self.second: SecondAttempt | None = None
        self.retained: KeptAnswer | None = None
        self.next_seq = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.accepted = False
        self.ended = False
        self.error: ServeAppError | None = None
        self._idle_at: float | None = None
        self._timeout_s: float | None = None
        self._sink: Sink | None = None
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._buffer_limit = buffer_limit
        self._held_bytes = 0
        self._pending: list[StreamEvent] = []
        self._out_of_order: dict[int, StreamEvent] = {}
        self._unfinished_choices = request.sampling.n
        self._waiter: asyncio.Future[None] | None = None

    # --- the reader's side

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """See `TokenStream.next`."""
        if not self._pending:
            if self.ended:
                self._raise_error()
                return None
            self._waiter = self._loop.create_future()
            self._timeout_s = timeout_s
            self._sink = sink
            self._begin_wait()
            try:
                await self._waiter
            finally:
                self._waiter = self._sink = None
            if not self._pending:
                if not self.ended:
                    return ()
                self._raise_error()
                return None
        events = self._pending
        self._pending = []
        self._held_bytes = 0
        return events

    @property
    def queue_position(self) -> int | None:
        """See `TokenStream.queue_position`."""
        return self._owner.stream_position(self)

    async def aclose(self) -> None:
        """See `TokenStream.aclose`."""
        self.end(None)
        self._pending.clear()

    def _raise_error(self) -> None:
        if self.error is not None:
            raise fresh(self.error)  # one lost engine ends many streams with one error

    def _begin_wait(self) -> None:
        self._idle_at = None if self._timeout_s is None else self._owner.coarse_now + self._timeout_s

    # --- the router's side

    def keep_in(self, retained: KeptAnswer) -> None:
        """Give all events to `retained`, which has readers of its own, and go on where it stands. Call it first."""
        self.retained = retained
        self._sink = retained.take
        self._buffer_limit = sys.maxsize  # nothing is held here
        for event in retained.log.all():
            if isinstance(event, Accepted):
                self.accepted = True
                self.prompt_tokens = event.prompt_tokens
                if self.record is not None:
                    self.record.accepted(event)
            elif isinstance(event, TokenDelta):
                self.output_tokens += event.count
                if self.record is not None:
                    self.record.record(event)

    def dispatched(self, attempt: int, engine_id: str) -> None:
        """A new attempt starts; events of older ones are void from now on."""
        self.attempt = attempt
        self.engine_id = engine_id
        self.next_seq = 0
        self._out_of_order.clear()

    def deliver(self, attempt: int, seq: int, event: StreamEvent) -> None:
        """Take one channel event: in order at once, early ones when the gap before them is filled.

        Events of older attempts, of an ended stream and repeated ones are void. Those of a second attempt wait until
        one of the two has given a token.
        """
        if attempt != self.attempt or self.ended or seq < self.next_seq:
            second = self.second
            if second is not None and second.number == attempt and not self.ended:
                self._take_second(second, seq, event)
            return
        if seq > self.next_seq:
            first = not self._out_of_order
            self._out_of_order[seq] = event
            if first:
                self._owner.stream_has_gap(self)
            return
        self._take(event)
        while self._out_of_order and not self.ended:
            early = self._out_of_order.pop(self.next_seq, None)
            if early is None:
                self._owner.stream_has_gap(self)
                return
            self._take(early)

    def promote_second(self) -> None:
        """Go on with the second attempt alone: the first one's events are void from now on."""
        second, self.second = self.second, None
        if second is not None:
            self.dispatched(second.number, second.engine_id)
            for seq, event in second.events:
                self.deliver(second.number, seq, event)

    def flush(self) -> None:
        """Hand what is pending to the sink, if the reader has one and still waits."""
        sink = self._sink
        if sink is None or self.ended:  # the reader's task takes it
            return
        events = self._pending
        self._pending = []
        self._held_bytes = 0
        try:
            takes_more = sink(events)
        except Exception:  # the streams that came in the same batch must not suffer for it
            logger.exception("request %s: writing its answer failed", self.request.request_id)
            self.end(InternalError("The server had an internal error."))
            return
        if takes_more:
            self._begin_wait()
        else:
            self._sink = None
            self._wake()

    def end(self, error: ServeAppError | None) -> None:
        """End the stream once; later calls change nothing."""
        if self.ended:
            return
        self.ended = True
        self.error = error
        self._out_of_order.clear()
        self._wake()
        self._owner.stream_ended(self)
        if self.retained is not None:
            self.retained.end(error, self._pending)
            self._pending = []

    def wake_if_idle(self, now: float) -> None:
        """Let a reader whose `timeout_s` is over at clock reading `now` return empty-handed."""
        if self._waiter is not None and self._idle_at is not None and now >= self._idle_at:
            self._wake()

    @property
    def completed(self) -> bool:
        """Whether every choice finished."""
        return self._unfinished_choices == 0

    def _take(self, event: StreamEvent) -> None:
        self.next_seq += 1
        kind = type(event)
        if kind is TokenDelta:
            assert isinstance(event, TokenDelta)
            tokens = event.count
            self.output_tokens += tokens
            if self.record is not None:
                self.record.record(event)
            self._owner.stream_progressed(self, tokens)
            self._held_bytes += len(event.text) + _EVENT_OVERHEAD_BYTES
            if self._held_bytes > self._buffer_limit:
                self._pending.clear()
                self.end(ClientTooSlow("The client read too slowly; its stream was cut."))
                return
        elif kind is Finished:
            assert isinstance(event, Finished)
            self.cached_tokens = max(self.cached_tokens, event.cached_tokens)
            self._unfinished_choices -= 1
        elif kind is Accepted:
            assert isinstance(event, Accepted)
            again, self.accepted = self.accepted, True
            self.prompt_tokens = event.prompt_tokens
            if self.record is not None:
                self.record.accepted(event)
            self._owner.stream_accepted(self)
            if again:
                return
        elif kind is Failed:
            assert isinstance(event, Failed)
            self._owner.stream_failed(self, error_of(event))
            return
        self._pending.append(event)
        if self._unfinished_choices == 0:
            self.end(None)
        elif self._sink is None:
            self._wake()
        elif len(self._pending) == 1:
            self._owner.stream_has_events(self)

    def _take_second(self, second: SecondAttempt, seq: int, event: StreamEvent) -> None:
        second.events.append((seq, event))
        if isinstance(event, Accepted):
            second.prompt_tokens = event.prompt_tokens
            self._owner.second_accepted(self, second)
        elif isinstance(event, Failed):
            self._owner.second_failed(self, second, error_of(event))
        else:
            self._owner.second_won(self, second)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
