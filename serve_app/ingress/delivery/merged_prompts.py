"""Several streams read as one, for requests with several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from serve_app.core.events import Finished, StreamEvent, TokenDelta
from serve_app.core.interfaces import Sink, TokenStream


class MergedPrompts:
    """A `TokenStream` over `streams`, each of `n` choices: choice `c` of stream `s` becomes `s * n + c`."""

    def __init__(self, streams: Sequence[TokenStream], n: int) -> None:
        self._streams = streams
        self._n = n
        self._open = set(range(len(streams)))
        self._reads: dict[asyncio.Task[Sequence[StreamEvent] | None], int] = {}

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """As `TokenStream.next`; the first stream that fails fails them all. `sink` is given nothing."""
        while self._open:
            for index in self._open.difference(self._reads.values()):
                self._reads[asyncio.ensure_future(self._streams[index].next())] = index
            done, _ = await asyncio.wait(self._reads, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return ()
            merged: list[StreamEvent] = []
            for read in done:
                index = self._reads.pop(read)
                events = read.result()
                if events is None:
                    self._open.discard(index)
                else:
                    merged.extend(self._renumbered(event, index) for event in events)
            if merged:
                return merged
        return None

    @property
    def queue_position(self) -> int | None:
        """Requests ahead of the one that waits longest; None when all are dispatched."""
        return max((place for stream in self._streams if (place := stream.queue_position) is not None), default=None)

    async def aclose(self) -> None:
        """Stop reading and close every stream, whatever closing one of them raises."""
        reads = list(self._reads)
        self._reads.clear()
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        results = await asyncio.gather(*(stream.aclose() for stream in self._streams), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _renumbered(self, event: StreamEvent, index: int) -> StreamEvent:
        if isinstance(event, TokenDelta | Finished):
            return replace(event, choice=index * self._n + event.choice)
        return event
