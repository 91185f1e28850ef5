"""An answer that outlives its readers: its events are kept, and each reader goes through them at its own pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve_app.core.errors import ClientTooSlow, InternalError, ServeAppError, fresh
from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.core.interfaces import Clock, KeptState, Sink, Skipped
from serve_app.core.request import Continuation, GenerationRequest
from serve_app.router.streams.replay_record import not_continuable, why_not_continuable
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.event_memory import request_bytes

logger = logging.getLogger(__name__)


def _nowhere() -> int | None:
    """The place of a stream that waits in no queue."""
    return None


def _unheard(stream: KeptAnswer) -> None:
    """Nobody is to be told."""


class KeptAnswer:
    """The answer to one request, as it grows. Used on the router's event loop."""

    __slots__ = (
        "_request_bytes",
        "ended",
        "error",
        "log",
        "on_ended",
        "queue_position",
        "readers",
        "request",
        "unread_since",
    )

    def __init__(self, request: GenerationRequest, now: float, log: EventLog | None = None) -> None:
        """`log` has what came before this router had it. `now` is a clock reading in seconds."""
        self.request = request
        self.log = EventLog() if log is None else log
        self._request_bytes = request_bytes(request)
        self.ended = False
        self.error: ServeAppError | None = None
        self.readers: set[AnswerReader] = set()
        self.unread_since: float | None = now
        """Since when nobody reads it; None while somebody does."""
        self.queue_position: Callable[[], int | None] = _nowhere
        """Asks for its place in the queue."""
        self.on_ended: Callable[[KeptAnswer], None] = _unheard
        """Told when it has ended."""

    @property
    def bytes(self) -> int:
        """Memory that it takes, estimated."""
        return self._request_bytes + self.log.bytes

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; 0 until an engine took it."""
        return 0 if self.log.first is None else self.log.first.prompt_tokens

    @property
    def state(self) -> KeptState:
        """How it stands now."""
        return state_of(self.request, self.log, self.ended, self.error)

    def take(self, events: Sequence[StreamEvent]) -> bool:
        """Keep `events`, which follow those before, and let the readers have them. Always takes more (a `Sink`)."""
        if not events:
            return True
        size = self.log.extend(events)
        for reader in list(self.readers):
            reader.offered(size)
        return True

    def continued(self, timeout_s: float | None) -> GenerationRequest:
        """The request, to go on where the answer stands; `timeout_s` is the time left until its deadline, in seconds.

        Raises `NotContinuable` when it would not be the same output.
        """
        request, log = self.request, self.log
        assert request.retention is not None
        prompt, output = log.prompt_token_ids(), log.token_ids()
        if prompt is None or output is None or why_not_continuable(request) is not None:
            raise not_continuable(why_not_continuable(request) or "its token ids are not known")
        return replace(
            request,
            timeout_s=timeout_s,
            continuation=Continuation(tuple(prompt), tuple(output), log.text),
            retention=replace(request.retention, prior=log.parts()),
        )

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
        on_ended, self.on_ended, self.queue_position = self.on_ended, _unheard, _nowhere  # or they would be cycles
        on_ended(self)


def state_of(request: GenerationRequest, log: EventLog, ended: bool, error: ServeAppError | None) -> KeptState:
    """How the answer to `request` stands of which `log` has the events."""
    return KeptState(request, log.brief(), log.texts, log.position, ended, error)


class AnswerReader:
    """Implements `core.interfaces.ResumedStream`: one reader of a kept answer, used by one task."""

    __slots__ = ("_clock", "_cursor", "_error", "_from", "_idle_at", "_limit", "_sink", "_stream", "_timeout_s",
                 "_unread_bytes", "_waiter")  # fmt: skip

    def __init__(self, stream: KeptAnswer, position: int, limit: int, clock: Clock) -> None:
        """Reads what comes after `position`. It is cut when more than `limit` bytes come between two reads."""
        self._stream = stream
        self._from = position
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
        return self._stream.queue_position()

    async def aclose(self) -> None:
        """Leave the stream to others; it goes on for its grace time if this was the last reader."""
        self._leave()

    def skipped(self) -> Skipped:
        """See `ResumedStream.skipped`."""
        log, tokens = self._stream.log, self._from
        if log.tokens < tokens <= log.position:  # the last text came without a token
            tokens = log.tokens
        scored = self.request.sampling.logprobs is not None
        return Skipped(tokens, log.shown_characters(tokens) if scored and tokens else 0)

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
                if event.position <= start:
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
