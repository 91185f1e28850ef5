"""What an engine answers a router that asks for events again which the channel lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.token_channel.codec import WireEvent, decode_events, encode_events

LogPositions = Mapping[tuple[int, int], int]
"""By (stream id, attempt): the number of the first event that is wanted."""


@dataclass(frozen=True, slots=True)
class RetainedEvents:
    """Of all generations that were asked for at once: one call, however many streams lost something."""

    known: frozenset[tuple[int, int]]
    """(stream id, attempt) of those that the engine has retained."""
    events: Sequence[WireEvent]
    """Theirs, in order for each."""

    def packed(self) -> tuple[list[tuple[int, int]], bytes]:
        """In the form in which it crosses the Serve handle."""
        return list(self.known), encode_events(self.events)

    @classmethod
    def unpacked(cls, known: Sequence[tuple[int, int]], events: bytes) -> RetainedEvents:
        """What `packed` made; raises `MalformedMessage`."""
        return cls(frozenset((stream_id, attempt) for stream_id, attempt in known), decode_events(events))


NOTHING_RETAINED = RetainedEvents(frozenset(), ())
"""The answer of an engine that is gone."""
