"""Keeps the events of generations for a while, so that a router can read again what the token channel lost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from serve_app.core.events import StreamEvent

GenerationKey = tuple[str, int, int]
"""(router id, stream id, attempt)."""


class RetainedLog:
    """Event lists by generation. Running generations are always kept; ended ones for `keep_s` seconds and at most
    `keep_events` events over all, the oldest going first. Single-threaded."""

    def __init__(self, keep_s: float, keep_events: int) -> None:
        self._keep_s = keep_s
        self._keep_events = keep_events
        self._running: dict[GenerationKey, list[StreamEvent]] = {}
        self._ended: OrderedDict[GenerationKey, tuple[float, list[StreamEvent]]] = OrderedDict()
        self._ended_events = 0

    def open(self, key: GenerationKey) -> list[StreamEvent]:
        """The list to append a new generation's events to."""
        events: list[StreamEvent] = []
        self._running[key] = events
        return events

    def end(self, key: GenerationKey, now: float) -> None:
        """The generation is over at clock reading `now` (seconds)."""
        events = self._running.pop(key)
        self._ended[key] = (now, events)
        self._ended_events += len(events)
        self.expire(now)

    def expire(self, now: float) -> None:
        """Forget ended generations that are too old or too many."""
        while self._ended:
            key, (ended_at, events) = next(iter(self._ended.items()))
            if now - ended_at < self._keep_s and self._ended_events <= self._keep_events:
                return
            del self._ended[key]
            self._ended_events -= len(events)

    def read(self, key: GenerationKey, from_seq: int) -> Sequence[StreamEvent] | None:
        """Events from number `from_seq` on; None when the generation is not known (any more)."""
        events = self._running.get(key)
        if events is None and key in self._ended:
            _, events = self._ended[key]
        return None if events is None else events[from_seq:]
