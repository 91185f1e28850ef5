"""The events of a stream that is retained: nearly all of them encoded, which takes a tenth of their memory."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence

from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.token_channel.handover import PART_EVENTS, encoded, event_bytes, output_tokens, plain_events


class EventLog:
    """Grows at its end and is read anywhere, by the number of an event from 0. Not thread-safe.

    Events are encoded in parts while the stream runs: to encode or decode 100,000 of them at once would hold up every
    other stream for a quarter of a second. The newest, which readers that keep up want, are as they came.
    """

    __slots__ = ("_ends", "_packed", "_parts", "_recent", "_starts", "_tokens", "bytes", "first")

    def __init__(self, events: Sequence[StreamEvent] = ()) -> None:
        self.bytes = 0
        """Memory that they take, estimated."""
        self.first: StreamEvent | None = None
        self._parts: list[bytes] = []
        self._starts: list[int] = []
        """Number of each part's first event."""
        self._ends: list[int] = []
        """What `_end` is of each part's last event."""
        self._packed = 0
        """Events in all parts."""
        self._tokens = 0
        """Output tokens by the end of the last part."""
        self._recent: list[StreamEvent] = []
        self.extend(events)

    def __len__(self) -> int:
        return self._packed + len(self._recent)

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return output_tokens(self._recent) or self._tokens

    def extend(self, events: Sequence[StreamEvent]) -> int:
        """Add `events`; returns their memory in bytes, estimated."""
        if self.first is None and events:
            self.first = events[0]
        self._recent += events
        size = sum(map(event_bytes, events))
        self.bytes += size
        while len(self._recent) >= 2 * PART_EVENTS:
            self._pack()
        return size

    def seal(self) -> None:
        """Encode the newest as well: nothing is expected to follow."""
        while self._recent:
            self._pack()

    def read(self, start: int) -> Sequence[StreamEvent]:
        """Some events from number `start` on; none only when there are none."""
        if start >= self._packed:
            return self._recent[start - self._packed :]
        part = bisect_right(self._starts, start) - 1
        return self._decoded(part)[start - self._starts[part] :]

    def after(self, tokens: int) -> int:
        """Number of the first event, not counting the very first, that a reader of `tokens` output tokens lacks."""
        part = bisect_right(self._ends, tokens)
        if part == len(self._parts):
            start, events = self._packed, self._recent
        else:
            start, events = self._starts[part], self._decoded(part)
        return start + bisect_right(events, tokens, 0 if start else 1, key=_end)

    def parts(self) -> tuple[bytes, ...]:
        """All of them, encoded."""
        return (*self._parts, *encoded(self._recent))

    def all(self) -> list[StreamEvent]:
        """All of them."""
        return plain_events(self._parts) + self._recent

    def _decoded(self, part: int) -> list[StreamEvent]:
        return plain_events(self._parts[part : part + 1])

    def _pack(self) -> None:
        events = self._recent[:PART_EVENTS]
        del self._recent[:PART_EVENTS]
        (part,) = encoded(events)
        self._starts.append(self._packed)
        self._ends.append(_end(events[-1]))
        self._parts.append(part)
        self._packed += len(events)
        self._tokens = output_tokens(events) or self._tokens
        self.bytes += len(part) - sum(map(event_bytes, events))


def _end(event: StreamEvent) -> int:
    """Output tokens that a reader has with this event; it has never the others."""
    return event.end if isinstance(event, TokenDelta) else sys.maxsize
