"""A stream whose generation gives the same output each time, so that losing a reader's place in it costs only time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.core.errors import StreamTakenOver
from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.core.interfaces import Sink, TokenStream
from serve_app.ingress.delivery.skipping_reader import SkippingReader


class RepeatableReader:
    """Reads `stream`, a retained one; when another reader takes that away to another router, opens one of its own with
    `open_own`, which nobody can take away, and goes on where it stood. Read by one task.
    """

    def __init__(self, stream: TokenStream, position: int, open_own: Callable[[], TokenStream]) -> None:
        """`stream` begins at output token `position`."""
        self._stream = stream
        self._position = position
        self._open_own = open_own

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """See `TokenStream.next`. `sink` is given nothing: the position is counted here."""
        del sink
        try:
            events = await self._stream.next(timeout_s)
        except StreamTakenOver:
            await self._stream.aclose()
            self._stream = SkippingReader(self._open_own(), self._position)
            events = await self._stream.next(timeout_s)
        for event in events or ():
            if isinstance(event, TokenDelta):
                self._position = event.position
        return events

    @property
    def queue_position(self) -> int | None:
        """See `TokenStream.queue_position`."""
        return self._stream.queue_position

    async def aclose(self) -> None:
        """See `TokenStream.aclose`."""
        await self._stream.aclose()
