"""The events of one stream that is kept: nearly all of them packed, which takes a tenth of their memory.

Routers keep answers in it, engines what they have sent.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain

from serve_app.core.events import Accepted, Failed, Finished, StreamEvent, TokenDelta
from serve_app.token_channel.brief_answer import joined, texts_in
from serve_app.token_channel.event_memory import LOG_BYTES, PART_BYTES, event_bytes
from serve_app.token_channel.packed_events import PackedEvents, pack, unpack

PART_EVENTS = 256
"""Events that are packed together: a fraction of a millisecond of work."""


class EventLog:
    """Grows at its end and is read anywhere, by the number of an event from 0. Not thread-safe.

        log = EventLog()
        log.extend([Accepted(1, [7]), TokenDelta(0, 0, 1, "Hi", [8])])
        log.read(1)   # [TokenDelta(0, 0, 1, "Hi", [8])]
        log.text      # "Hi"

    Events are packed in parts while the stream runs: to pack or unpack 100,000 of them at once would hold up every
    other stream for a second. The newest, which readers that keep up want, are as they came.
    """

    __slots__ = (
        "_ends",
        "_packed",
        "_parts",
        "_position",
        "_recent",
        "_starts",
        "_texts",
        "_tokens",
        "bytes",
        "failed",
        "finished",
        "first",
    )

    def __init__(self, events: Sequence[StreamEvent] = ()) -> None:
        self.first: Accepted | None = None
        """The first event, without the prompt's ids, which may be many; None until an engine took the request."""
        self.finished: Finished | None = None
        """The end of the answer, once it came."""
        self.failed: Failed | None = None
        """What ended it instead."""
        self._parts: list[bytes] = []
        self._starts: array[int] = array("q")
        """Number of each part's first event."""
        self._ends: array[int] = array("q")
        """What `_end` is of each part's last event."""
        self._packed = 0
        """Events in all parts."""
        self._tokens = self._position = self._texts = 0
        """What `tokens`, `position` and `texts` are by the end of the last part."""
        self._recent: list[StreamEvent] = []
        self.bytes = LOG_BYTES
        """Memory that it takes, estimated."""
        self.extend(events)

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> EventLog:
        """The log whose `parts` these are."""
        log = cls()
        for part in parts:
            packed = PackedEvents.of(part)
            log._add(part, len(packed), packed.tokens, packed.position, packed.texts, packed.ends_with_delta)
            for event in packed.others:
                log._note(event)
        return log

    def __len__(self) -> int:
        return self._packed + len(self._recent)

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        last = _last_delta(self._recent)
        return self._tokens if last is None else last.end

    @property
    def position(self) -> int:
        """Where a reader stands who has everything, see `TokenDelta.position`."""
        last = _last_delta(self._recent)
        return self._position if last is None else last.position

    @property
    def begun(self) -> bool:
        """Whether output came, if only an empty one."""
        return self.finished is not None or self.position > 0

    @property
    def text(self) -> str:
        """The output so far: some milliseconds of work for 100,000 tokens."""
        packed = "".join(PackedEvents.of(part).text for part in self._parts)
        return packed + "".join(event.text for event in self._recent if isinstance(event, TokenDelta))

    @property
    def texts(self) -> int:
        """How many pieces of content the deltas brought."""
        return self._texts + sum(map(texts_in, self._recent))

    def brief(self) -> list[StreamEvent]:
        """All of them in few, see `brief_answer.joined`: some milliseconds of work for 100,000 tokens."""
        packed = (event for part in self._parts for event in PackedEvents.of(part).brief())
        return joined(chain(packed, self._recent))

    def extend(self, events: Sequence[StreamEvent]) -> int:
        """Add `events`; returns their memory in bytes, estimated."""
        size = sum(map(event_bytes, events))
        self.bytes += size
        self._recent += events
        for event in events:
            if type(event) is not TokenDelta:
                self._note(event)
        while len(self._recent) >= 2 * PART_EVENTS:
            self._pack()
        return size

    def append(self, event: StreamEvent) -> None:
        """Add one event."""
        self.bytes += event_bytes(event)
        self._recent.append(event)
        if type(event) is not TokenDelta:
            self._note(event)
        if len(self._recent) >= 2 * PART_EVENTS:
            self._pack()

    def seal(self) -> None:
        """Pack the newest as well: nothing is expected to follow."""
        while self._recent:
            self._pack()

    def read(self, start: int) -> Sequence[StreamEvent]:
        """Some events from number `start` on; none only when there are none."""
        if start >= self._packed:
            return self._recent[start - self._packed :]
        part = bisect_right(self._starts, start) - 1
        return self._unpacked(part)[start - self._starts[part] :]

    def after(self, position: int) -> int:
        """Number of the first event, not counting the very first, that a reader at `position` lacks."""
        part = bisect_right(self._ends, position)
        if part == len(self._parts):
            start, events = self._packed, self._recent
        else:
            start, events = self._starts[part], self._unpacked(part)
        return start + bisect_right(events, position, 0 if start else 1, key=_end)

    def parts(self) -> tuple[bytes, ...]:
        """All of them, packed."""
        starts = range(0, len(self._recent), PART_EVENTS)
        return (*self._parts, *(pack(self._recent[start : start + PART_EVENTS]) for start in starts))

    def all(self) -> list[StreamEvent]:
        """All of them. It takes long: 100,000 tokens hold an event loop for a second."""
        return unpack(self._parts) + self._recent

    def token_ids(self) -> array[int] | None:
        """The ids of all output tokens; None when some are not known or missing."""
        ids: array[int] = array("i")
        for part in self.parts():
            more = PackedEvents.of(part).token_ids(len(ids))
            if more is None:
                return None
            ids += more
        return ids

    def prompt_token_ids(self) -> list[int] | None:
        """The ids of the prompt, once an engine told them."""
        first = next(iter(self.read(0)), None)
        return first.prompt_token_ids if isinstance(first, Accepted) else None

    def shown_characters(self, tokens: int) -> int:
        """Characters of the first `tokens` tokens, as their log-probabilities show them."""
        lengths: list[int] = []
        for part in self.parts():
            if len(lengths) >= tokens:
                break
            lengths += PackedEvents.of(part).shown_lengths()
        return sum(lengths[:tokens])

    def _note(self, event: StreamEvent) -> None:
        if isinstance(event, Accepted):
            self.first = self.first or Accepted(event.prompt_tokens)
        elif isinstance(event, Finished):
            self.finished = event
        elif isinstance(event, Failed):
            self.failed = event

    def _unpacked(self, part: int) -> list[StreamEvent]:
        return PackedEvents.of(self._parts[part]).events()

    def _pack(self) -> None:
        events = self._recent[:PART_EVENTS]
        del self._recent[:PART_EVENTS]
        self.bytes -= sum(map(event_bytes, events))
        last = _last_delta(events)
        tokens, position = (0, 0) if last is None else (last.end, last.position)
        self._add(pack(events), len(events), tokens, position, sum(map(texts_in, events)), events[-1] is last)

    def _add(self, part: bytes, events: int, tokens: int, position: int, texts: int, ends_with_delta: bool) -> None:
        self._starts.append(self._packed)
        self._ends.append(position if ends_with_delta else sys.maxsize)
        self._parts.append(part)
        self._packed += events
        self._tokens = tokens or self._tokens
        self._position = position or self._position
        self._texts += texts
        self.bytes += PART_BYTES + len(part)


def _end(event: StreamEvent) -> int:
    """Position of a reader who has this event; it has never the others."""
    return event.position if isinstance(event, TokenDelta) else sys.maxsize


def _last_delta(events: Sequence[StreamEvent]) -> TokenDelta | None:
    return next((event for event in reversed(events) if isinstance(event, TokenDelta)), None)
