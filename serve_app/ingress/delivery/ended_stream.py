"""An answer that has ended, read as a stream."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.errors import fresh
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import RetainedAnswer, Sink
from serve_app.core.request import GenerationRequest


class EndedStream:
    """Implements `core.interfaces.ResumedStream` for an answer of which nothing more will come. Read by one task."""

    def __init__(self, answer: RetainedAnswer) -> None:
        self._answer = answer
        self._read = False

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """See `TokenStream.next`; never waits."""
        if not self._read and self._answer.events:
            self._read = True
            return self._answer.events
        if self._answer.error is not None:
            raise fresh(self._answer.error)
        return None

    @property
    def request(self) -> GenerationRequest:
        """See `ResumedStream.request`."""
        return self._answer.request

    @property
    def queue_position(self) -> int | None:
        """It waits for nothing."""
        return None

    async def aclose(self) -> None:
        """There is nothing to release."""
