"""A stream read from a token on, for readers who have what comes before it from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_app.core.errors import InvalidRequest
from serve_app.core.events import Finished, StreamEvent, TokenDelta
from serve_app.core.interfaces import Sink, TokenStream


class SkippingReader:
    """A `TokenStream` of one choice without the first `tokens` tokens of `stream`, as `Router.resume` gives it.

    Read by one task. `spare` more tokens than the stream has are forgiven; beyond that `next` raises `InvalidRequest`
    naming `offset`.
    """

    def __init__(self, stream: TokenStream, tokens: int, spare: int = 0) -> None:
        self._stream = stream
        self._tokens = tokens
        self._spare = spare
        self._position = 0

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """See `TokenStream.next`; what is skipped does not count as an event."""
        if self._position >= self._tokens:
            return await self._stream.next(timeout_s, sink)
        now = asyncio.get_running_loop().time
        until = None if timeout_s is None else now() + timeout_s
        while True:
            events = await self._stream.next(None if until is None else max(0.0, until - now()))
            if not events or (rest := self._rest(events)):
                return events if not events else rest
            if until is not None and now() >= until:
                return ()

    @property
    def queue_position(self) -> int | None:
        """See `TokenStream.queue_position`."""
        return self._stream.queue_position

    async def aclose(self) -> None:
        """See `TokenStream.aclose`."""
        await self._stream.aclose()

    def _rest(self, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        rest: list[StreamEvent] = []
        for event in events:
            if isinstance(event, TokenDelta):
                self._position = event.position
                if self._position > self._tokens:
                    rest.append(event.rest(self._tokens))
                continue
            if isinstance(event, Finished) and self._tokens > self._position + self._spare:
                message = f"The answer has {self._position} tokens, fewer than the offset."
                raise InvalidRequest(message, "offset", "invalid_value")
            rest.append(event)
        return rest
