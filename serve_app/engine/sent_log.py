"""Keeps what generations have sent for a while, so that a router can read again what the token channel lost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from serve_app.core.events import StreamEvent
from serve_app.token_channel.event_log import EventLog

GenerationKey = tuple[str, int, int]
"""(router id, stream id, attempt)."""


class SentLog:
    """Event logs by generation. Running generations are always kept; ended ones for `keep_s` seconds and at most
    `keep_bytes` bytes over all, the oldest going first. Call `expire` now and then. Single-threaded."""

    def __init__(self, keep_s: float, keep_bytes: int) -> None:
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._running: dict[GenerationKey, EventLog] = {}
        self._ended: OrderedDict[GenerationKey, tuple[float, EventLog]] = OrderedDict()
        self.ended_bytes = 0
        """Memory of what ended generations have sent, estimated."""

    @property
    def has_ended(self) -> bool:
        """Whether something is kept that will expire."""
        return bool(self._ended)

    def open(self, key: GenerationKey) -> EventLog:
        """The log to append a new generation's events to."""
        events = self._running[key] = EventLog()
        return events

    def end(self, key: GenerationKey, now: float) -> None:
        """The generation is over at clock reading `now` (seconds)."""
        events = self._running.pop(key)
        events.seal()  # nearly all is packed already: what is left takes about a millisecond
        self._ended[key] = (now, events)
        self.ended_bytes += events.bytes
        self.expire(now)

    def expire(self, now: float) -> None:
        """Forget ended generations that are too old or too much."""
        while self._ended:
            key, (ended_at, events) = next(iter(self._ended.items()))
            if now - ended_at < self._keep_s and self.ended_bytes <= self._keep_bytes:
                return
            del self._ended[key]
            self.ended_bytes -= events.bytes

    def read(self, key: GenerationKey, from_seq: int) -> Sequence[StreamEvent] | None:
        """Events from number `from_seq` on; None when the generation is not known (any more)."""
        log = self._running.get(key)
        if log is None and key in self._ended:
            _, log = self._ended[key]
        if log is None:
            return None
        events: list[StreamEvent] = []
        while more := log.read(from_seq + len(events)):
            events += more
        return events
