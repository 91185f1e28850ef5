"""One request's stream on the router side: which events count next, and what its reader has not read yet."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence

from serve_app.core.errors import ClientTooSlow, InternalError, ServeAppError, fresh
from serve_app.core.events import Finished, StreamEvent
from serve_app.core.interfaces import Sink
from serve_app.core.request import GenerationRequest
from serve_app.router.streams.coarse_clock import CoarseClock
from serve_app.router.streams.kept_answer import KeptAnswer
from serve_app.router.streams.replay_record import ReplayRecord, why_not_continuable
from serve_app.router.streams.second_attempt import SecondAttempt
from serve_app.telemetry.stream_metrics import StreamMetrics

_EVENT_OVERHEAD_BYTES = 256
"""Memory of one held event beside its text."""

_NEVER = sys.maxsize
"""No event has this number."""

logger = logging.getLogger(__name__)


class RunningStream:
    """Implements `core.interfaces.TokenStream`. Made and used on the router's event loop, read by one task.

    It holds what the shell needs: the attempt whose events count, and events that are not read yet. What decisions are
    made by, as the tokens so far, is in the core's `StreamLedger`.

        stream.dispatched(attempt=1, engine_id="engine-1")
        stream.push(TokenDelta(0, 0, 1, "Hi"), size=2)  # the router's side
        await stream.next()  # the reader's: [TokenDelta(0, 0, 1, "Hi")]
        stream.end(None)
    """

    __slots__ = (
        "_buffer_limit",
        "_clock",
        "_held_bytes",
        "_idle_at",
        "_loop",
        "_on_ended",
        "_pending",
        "_position",
        "_sink",
        "_timeout_s",
        "_unfinished_choices",
        "_waiter",
        "accepted",
        "attempt",
        "cached_tokens",
        "deadline",
        "early",
        "ended",
        "engine_id",
        "error",
        "group",
        "kept",
        "metrics",
        "next_seq",
        "pool",
        "record",
        "request",
        "second",
        "stream_id",
    )

    def __init__(
        self,
        stream_id: int,
        request: GenerationRequest,
        pool: str,
        metrics: StreamMetrics,
        buffer_limit: int,
        clock: CoarseClock,
        on_ended: Callable[[RunningStream], None],
        position: Callable[[int], int | None],
    ) -> None:
        """The stream is cut when its reader leaves more than `buffer_limit` bytes unread. `on_ended` is called exactly
        once; `position` asks for the place of a stream id in the queue."""
        self.stream_id = stream_id
        self.request = request
        self.pool = pool
        """What `request.model` stands for."""
        self.metrics = metrics
        self.deadline: float | None = None
        self.record = None if why_not_continuable(request) else ReplayRecord()
        self.attempt = 0
        """The attempt whose events count."""
        self.engine_id: str | None = None
        """Where it was dispatched last."""
        self.group = ""
        """Deployment of that replica."""
        self.second: SecondAttempt | None = None
        self.kept: KeptAnswer | None = None
        self.next_seq = 0
        """Number of the attempt's event that comes next."""
        self.early: dict[int, StreamEvent] = {}
        """Events of the attempt that came before that one, by number."""
        self.cached_tokens = 0
        self.accepted = False
        """The reader has an `Accepted`: it gets no second one."""
        self.ended = False
        self.error: ServeAppError | None = None
        self._idle_at: float | None = None
        self._timeout_s: float | None = None
        self._sink: Sink | None = None
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._on_ended = on_ended
        self._position = position
        self._buffer_limit = buffer_limit
        self._held_bytes = 0
        self._pending: list[StreamEvent] = []
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
        return self._position(self.stream_id)

    async def aclose(self) -> None:
        """See `TokenStream.aclose`."""
        self.end(None)
        self._pending.clear()

    def _raise_error(self) -> None:
        if self.error is not None:
            raise fresh(self.error)  # one lost engine ends many streams with one error

    def _begin_wait(self) -> None:
        self._idle_at = None if self._timeout_s is None else self._clock.now + self._timeout_s

    # --- the router's side

    def keep_in(self, kept: KeptAnswer) -> None:
        """Give all events to `kept`, which has readers of its own, and go on where it stands. Call it first."""
        self.kept = kept
        self._sink = kept.take
        self._buffer_limit = sys.maxsize  # nothing is held here
        self.record = None  # it is continued from what is kept
        self.accepted = kept.log.first is not None

    def dispatched(self, attempt: int, engine_id: str, group: str = "") -> None:
        """A new attempt starts; events of older ones are void from now on."""
        self.attempt = attempt
        self.engine_id = engine_id
        self.group = group
        self.next_seq = 0
        self.early.clear()

    def withdrawn(self) -> None:
        """The present attempt was taken back: its late events are void, and there is no other yet."""
        self.next_seq = _NEVER
        self.early.clear()

    def takes(self, attempt: int) -> bool:
        """Whether events of this attempt count."""
        return attempt == self.attempt and self.next_seq != _NEVER and not self.ended

    def push(self, event: StreamEvent, size: int = 0) -> bool:
        """Hold an event for the reader, with `size` characters of text; whether `flush` has to be called when the batch
        that it came with has been taken."""
        pending = self._pending
        self._held_bytes += size + _EVENT_OVERHEAD_BYTES
        if self._held_bytes > self._buffer_limit:
            pending.clear()
            self.end(ClientTooSlow("The client read too slowly; its stream was cut."))
            return False
        pending.append(event)
        if self._sink is not None:
            return len(pending) == 1  # the first one asks for it, for all that follow
        self._wake()
        return False

    def finished(self, event: Finished) -> bool:
        """A choice finished; the last one ends the stream, and its reader takes what is left. Returns as `push`."""
        self.cached_tokens = max(self.cached_tokens, event.cached_tokens)
        self._unfinished_choices -= 1
        self._pending.append(event)
        if self._unfinished_choices == 0:
            self.end(None)
        elif self._sink is not None:
            return len(self._pending) == 1
        else:
            self._wake()
        return False

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
        self.early.clear()
        self._wake()
        self._on_ended(self)
        if self.kept is not None:
            self.kept.end(error, self._pending)
            self._pending = []

    def wake_if_idle(self, now: float) -> None:
        """Let a reader whose `timeout_s` is over at clock reading `now` return empty-handed."""
        if self._waiter is not None and self._idle_at is not None and now >= self._idle_at:
            self._wake()

    @property
    def completed(self) -> bool:
        """Whether every choice finished."""
        return self._unfinished_choices == 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
