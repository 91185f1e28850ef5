"""Bounded waiting queue: FIFO, limited by request count and by prompt tokens.

Offers beyond the bounds are refused, or wait in line for a place (`when_full`), which is the back-pressure of a bounded
reactive queue (Akka Streams' `Source.queue` with `OverflowStrategy.backpressure`). The line is bounded too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class WhenFull(StrEnum):
    """What happens to an offer that finds the queue full."""

    REFUSE = "refuse"
    WAIT = "wait"


class Offered(StrEnum):
    """What became of an offer."""

    QUEUED = "queued"
    IN_LINE = "in_line"
    """Not in the queue yet: it waits for a place."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of one queue."""

    requests: int
    tokens: int
    """Sum of estimated prompt tokens."""
    in_line: int
    """Offers that may wait for a place; only used with `WhenFull.WAIT`."""
    when_full: WhenFull


class AdmissionQueue:
    """Holds stream ids with their prompt tokens. Pure and single-threaded.

    Invariants: the queue never exceeds its bounds through `offer`; `put_back` (work that was already admitted once)
    may exceed them by what was in flight; an offer larger than the token bound is let in when the queue is empty, so
    that a single long prompt is never starved.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._queue: OrderedDict[int, int] = OrderedDict()
        self._in_line: OrderedDict[int, int] = OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[int]:
        """Ids in the order in which they are served, those in line last."""
        yield from self._queue
        yield from self._in_line

    @property
    def tokens(self) -> int:
        """Prompt tokens in the queue, those in line not counted."""
        return self._tokens

    @property
    def in_line(self) -> int:
        """Offers waiting for a place."""
        return len(self._in_line)

    def waits_in_line(self, stream_id: int) -> bool:
        """Whether this offer still stands in line for a place in the queue."""
        return stream_id in self._in_line

    def has_place(self, tokens: int) -> bool:
        """Whether an offer of `tokens` prompt tokens would be queued now."""
        if self._in_line:
            return False
        return self._fits(tokens)

    def can_take(self) -> bool:
        """Whether a small offer would be queued or put in line now."""
        return self.has_place(1) or (
            self._limits.when_full is WhenFull.WAIT and len(self._in_line) < self._limits.in_line
        )

    def offer(self, stream_id: int, tokens: int) -> Offered:
        """Queue `stream_id` at the tail, put it in line, or refuse it."""
        if self.has_place(tokens):
            self._queue[stream_id] = tokens
            self._tokens += tokens
            return Offered.QUEUED
        if self._limits.when_full is WhenFull.WAIT and len(self._in_line) < self._limits.in_line:
            self._in_line[stream_id] = tokens
            return Offered.IN_LINE
        return Offered.REFUSED

    def put_back(self, stream_id: int, tokens: int) -> None:
        """Queue at the head, above the bounds if need be: work that was admitted before."""
        self._queue[stream_id] = tokens
        self._queue.move_to_end(stream_id, last=False)
        self._tokens += tokens

    def head(self) -> int | None:
        """The stream to serve next, without removing it."""
        return next(iter(self._queue), None)

    def remove(self, stream_id: int) -> bool:
        """Take `stream_id` out, wherever it waits; whether it was there. Whoever is in line moves up."""
        if stream_id in self._in_line:
            del self._in_line[stream_id]
        elif stream_id in self._queue:
            self._tokens -= self._queue.pop(stream_id)
        else:
            return False
        self._move_up()
        return True

    def position(self, stream_id: int) -> int | None:
        """Streams ahead of `stream_id`; None when it does not wait. Linear in the queue's length."""
        for ahead, waiting in enumerate(self):
            if waiting == stream_id:
                return ahead
        return None

    def _fits(self, tokens: int) -> bool:
        if not self._queue:
            return self._limits.requests > 0
        return len(self._queue) < self._limits.requests and self._tokens + tokens <= self._limits.tokens

    def _move_up(self) -> None:
        while self._in_line:
            stream_id, tokens = next(iter(self._in_line.items()))
            if not self._fits(tokens):
                return
            del self._in_line[stream_id]
            self._queue[stream_id] = tokens
            self._tokens += tokens
