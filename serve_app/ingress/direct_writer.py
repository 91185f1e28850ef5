"""Writes a stream's events to the client the moment the router has them, without waking the response's task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from serve_app.core.errors import ServeAppError
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import Sink, TokenStream
from serve_app.ingress.client_watch import ClientWatch


class DirectWriter:
    """Reads `stream` for one response, and once begun writes its events by itself: a task that is woken for each token,
    and the coroutines below it, cost more than the token's own work. Used by one task."""

    def __init__(
        self, stream: TokenStream, write: Callable[[Sequence[StreamEvent]], bytes], client: ClientWatch
    ) -> None:
        """`write` gives the body bytes for events; empty when there is nothing to send."""
        self._stream = stream
        self._write = write
        self._client = client
        self._sink: Sink | None = None
        self._unsent: Coroutine[Any, Any, None] | None = None

    def begin(self) -> None:
        """The headers are sent: events may follow from now on."""
        self._sink = self._take

    async def next(self, timeout_s: float) -> Sequence[StreamEvent] | None:
        """As `TokenStream.next`, less the events that were written already. Raises what writing raised."""
        while True:
            try:
                events = await self._stream.next(timeout_s, self._sink)
            except ServeAppError:
                await self._finish()
                raise
            except BaseException:
                if self._unsent is not None:
                    self._unsent.close()
                raise
            if not await self._finish() or events is None or events:
                return events

    def _take(self, events: Sequence[StreamEvent]) -> bool:
        chunk = self._write(events)
        if chunk:
            self._unsent = self._client.send_now({"type": "http.response.body", "body": chunk, "more_body": True})
        return self._unsent is None

    async def _finish(self) -> bool:
        """Wait until the client took what it did not take at once; whether there was any."""
        unsent, self._unsent = self._unsent, None
        if unsent is None:
            return False
        await unsent
        return True
