"""A stream that outlives its readers: its events are kept, and each reader goes through them at its own pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from serve_app.core.errors import ClientTooSlow, InternalError, ServeAppError, fresh
from serve_app.core.events import Accepted, StreamEvent, TokenDelta
from serve_app.core.interfaces import Clock, Sink
from serve_app.core.request import GenerationRequest
from serve_app.router.streams.event_log import EventLog
from serve_app.token_channel.handover import request_bytes

logger = logging.getLogger(__name__)


def _nowhere() -> int | None:
    """The place of a stream that waits in no queue."""
    return None


def _unheard(stream: KeptAnswer) -> None:
    """Nobody is to be told."""


class KeptAnswer:
    """The events of one stream, from `Accepted` on. Used on the router's event loop."""

    __slots__ = (
        "_request_bytes",
        "ended",
        "error",
        "log",
        "on_ended",
        "position",
        "readers",
        "request",
        "unread_since",
    )

    def __init__(self, request: GenerationRequest, now: float, events: Sequence[StreamEvent] = ()) -> None:
        """`events` came before this router had it. `now` is a clock reading in seconds."""
        self.request = request
        self.log = EventLog(events)
        self._request_bytes = request_bytes(request)
        self.ended = False
        self.error: ServeAppError | None = None
        self.readers: set[AnswerReader] = set()
        self.unread_since: float | None = now
        """Since when nobody reads it; None while somebody does."""
        self.position: Callable[[], int | None] = _nowhere
        """Asks for its place in the queue."""
        self.on_ended: Callable[[KeptAnswer], None] = _unheard
        """Told when it has ended."""

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return self.log.tokens

    @property
    def bytes(self) -> int:
        """Memory that it takes, estimated."""
        return self._request_bytes + self.log.bytes

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; 0 until an engine took it."""
        first = self.log.first
        return first.prompt_tokens if isinstance(first, Accepted) else 0

    def take(self, events: Sequence[StreamEvent]) -> bool:
        """Keep `events`, which follow those before, and let the readers have them. Always takes more (a `Sink`)."""
        if not events:
            return True
        size = self.log.extend(events)
        for reader in list(self.readers):
            reader.offered(size)
        return True

    def end(self, error: ServeAppError | None, last: Sequence[StreamEvent] = ()) -> None:
        """Nothing follows but `last`. `error` is what ended it, None when it was completed. Repeats change nothing."""
        if self.ended:
            return
        self.log.extend(last)
        self.log.seal()
        self.ended = True
        self.error = None if error is None else fresh(error)  # the traceback would keep what failed alive
        for reader in list(self.readers):
            reader.wake()
        on_ended, self.on_ended, self.position = self.on_ended, _unheard, _nowhere  # or they would be cycles
        on_ended(self)


class AnswerReader:
    """Implements `core.interfaces.ResumedStream`: one reader of a retained stream, used by one task."""

    __slots__ = ("_clock", "_cursor", "_error", "_from", "_idle_at", "_limit", "_sink", "_stream", "_timeout_s",
                 "_unread_bytes", "_waiter")  # fmt: skip

    def __init__(self, stream: KeptAnswer, from_token: int, limit: int, clock: Clock) -> None:
        """Reads from output token `from_token` on. It is cut when more than `limit` bytes come between two reads."""
        self._stream = stream
        self._from = from_token
        self._limit = limit
        self._clock = clock
        self._cursor = 0
        self._unread_bytes = 0
        self._error: ServeAppError | None = None
        self._sink: Sink | None = None
        self._timeout_s: float | None = None
        self._idle_at: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        stream.readers.add(self)
        stream.unread_since = None

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """See `TokenStream.next`."""
        stream = self._stream
        if events := self._read():
            return events
        if not stream.ended and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            self._timeout_s = timeout_s
            self._sink = sink
            self._begin_wait()
            try:
                await self._waiter
            finally:
                self._waiter = self._sink = None
            if events := self._read():
                return events
            if not stream.ended and self._error is None:
                return ()
        if (error := self._error or stream.error) is not None:
            raise fresh(error)
        return None

    @property
    def request(self) -> GenerationRequest:
        """See `ResumedStream.request`."""
        return self._stream.request

    @property
    def queue_position(self) -> int | None:
        """See `TokenStream.queue_position`."""
        return self._stream.position()

    async def aclose(self) -> None:
        """Leave the stream to others; it goes on for its grace time if this was the last reader."""
        self._leave()

    # --- the stream's side

    def offered(self, size: int) -> None:
        """`size` bytes came: hand them on if this reader waits, or see whether it is too slow."""
        if self._waiter is None:
            self._unread_bytes += size
            if self._unread_bytes > self._limit:
                self._fail(ClientTooSlow("The client read too slowly; it can resume the stream."))
        elif self._sink is None:
            self.wake()
        else:
            self._hand_over(self._sink)

    def wake(self) -> None:
        """Let the reader's task look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def wake_if_idle(self, now: float) -> None:
        """Let a reader whose `timeout_s` is over at clock reading `now` return empty-handed."""
        if self._waiter is not None and self._idle_at is not None and now >= self._idle_at:
            self.wake()

    def fail(self, error: ServeAppError) -> None:
        """End this reader, and not the stream, with `error` after what it can still read."""
        self._error = error
        self.wake()

    # --- inside

    def _read(self) -> Sequence[StreamEvent]:
        self._unread_bytes = 0
        log = self._stream.log
        while self._cursor < len(log):
            if self._cursor == 0 and self._from and log.first is not None:  # and then what is new to the reader
                self._cursor = log.after(self._from)
                return (log.first,)
            batch = log.read(self._cursor)
            self._cursor += len(batch)
            if batch := self._unknown(batch):
                return batch
        return ()

    def _unknown(self, batch: Sequence[StreamEvent]) -> Sequence[StreamEvent]:
        """What of `batch` comes after the tokens that the reader has."""
        start = self._from
        if not start:
            return batch
        rest: list[StreamEvent] = []
        for event in batch:
            if isinstance(event, TokenDelta):
                if event.end <= start:
                    continue
                self._from = 0
                event = event.rest(start)
            rest.append(event)
        return rest

    def _hand_over(self, sink: Sink) -> None:
        if not (events := self._read()):
            return
        try:
            takes_more = sink(events)
        except Exception:  # neither the stream nor its other readers may suffer for it
            logger.exception("request %s: writing its answer failed", self.request.request_id)
            self._fail(InternalError("The server had an internal error."))
            return
        if takes_more and self._cursor == len(self._stream.log):
            self._begin_wait()
        else:
            self._sink = None
            self.wake()

    def _begin_wait(self) -> None:
        self._idle_at = None if self._timeout_s is None else self._clock() + self._timeout_s

    def _fail(self, error: ServeAppError) -> None:
        self._error = error
        self._leave()
        self.wake()

    def _leave(self) -> None:
        """Hold nothing of the stream any more."""
        stream = self._stream
        if self in stream.readers:
            stream.readers.discard(self)
            if not stream.readers:
                stream.unread_since = self._clock()
        self._stream = KeptAnswer(stream.request, 0.0)
        self._stream.ended = True
        self._cursor = 0
