"""Writes a stream's events to the client the moment the router has them, without waking the response's task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from serve_app.core.errors import ServeAppError
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import Sink, TokenStream

Delivery = Coroutine[Any, Any, None]
"""The rest of a delivery that the client did not take at once."""


class DirectDelivery:
    """Reads `stream` for one reader, and once begun delivers its events by itself: a task that is woken for each token,
    and the coroutines below it, cost more than the token's own work. Used by one task."""

    def __init__(self, stream: TokenStream, deliver: Callable[[Sequence[StreamEvent]], Delivery | None]) -> None:
        """`deliver` returns what is to be awaited before it is called again; None when all is delivered."""
        self._stream = stream
        self._deliver = deliver
        self._begun = False
        self._unsent: Delivery | None = None

    def begin(self) -> None:
        """Events may be delivered from now on."""
        self._begun = True

    async def next(self, timeout_s: float | None) -> Sequence[StreamEvent] | None:
        """As `TokenStream.next`, less the events that were delivered already. Raises what delivering raised."""
        sink: Sink | None = self._take if self._begun else None
        while True:
            try:
                events = await self._stream.next(timeout_s, sink)
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
        self._unsent = self._deliver(events)
        return self._unsent is None

    async def _finish(self) -> bool:
        """Wait until the client took what it did not take at once; whether there was any."""
        unsent, self._unsent = self._unsent, None
        if unsent is None:
            return False
        await unsent
        return True
