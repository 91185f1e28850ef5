"""What routers and engines say to each other when a retained stream changes its owner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from serve_app.core.errors import ServeAppError
from serve_app.core.events import Accepted, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest
from serve_app.token_channel.codec import decode_events, encode_events


@dataclass(frozen=True, slots=True)
class Claim:
    """A router looks for a retained stream."""

    key: str
    tenant: str
    router_id: str
    """Who asks."""
    take: bool = True
    """Whoever holds the stream gives it up. False: only tells how it stands."""
    cancels: bool = False
    """It is not to go on, of which its present readers are told."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A retained stream as its holder had it. With `Claim.take` the holder has ended its own part before it answers."""

    request: GenerationRequest
    """As it was opened, with the time that is left."""
    encoded: tuple[bytes, ...]
    """The events from `Accepted` on, as `encoded` gives them."""
    tokens: int
    """Output tokens in them: of several parts of one stream, as after a failover, the longest goes on."""
    ended: bool
    error: ServeAppError | None = None
    """What ended it, unless it was completed."""
    settled: bool = True
    """Whether its outcome was counted; of those that have ended."""

    def events(self) -> list[StreamEvent]:
        """The events from `Accepted` on."""
        return plain_events(self.encoded)


@dataclass(frozen=True, slots=True)
class Moved:
    """The stream was here a moment ago: somebody took it, who may not have it yet."""


Answer = HandedOver | Moved | None
"""What a router or engine replica answers to a `Claim`; None when it knows nothing of the stream."""


PART_EVENTS = 512
"""Events that are encoded together: a fraction of a millisecond of work."""
_EVENT_BYTES = 256
"""Memory of one event beside its text and tokens, about."""
_TOKEN_BYTES = 40
_REQUEST_BYTES = 2048
"""Memory of a kept stream beside its events, its prompt and its envelope, about."""


def event_bytes(event: StreamEvent) -> int:
    """Memory that a kept event takes, estimated."""
    match event:
        case TokenDelta():
            return _EVENT_BYTES + len(event.text) + _TOKEN_BYTES * event.count
        case Accepted():
            return _EVENT_BYTES + _TOKEN_BYTES * event.prompt_tokens
    return _EVENT_BYTES


def request_bytes(request: GenerationRequest) -> int:
    """Memory that a kept request takes, estimated: nearly all of it is the prompt and the answer's envelope."""
    prompt, retention = request.prompt, request.retention
    size = _REQUEST_BYTES + len(prompt.text or "") + _TOKEN_BYTES * len(prompt.token_ids or ())
    if prompt.messages is not None:
        size += len(msgspec.msgpack.encode(prompt.messages, enc_hook=str))
    return size + (0 if retention is None else len(retention.envelope))


def encoded(events: Sequence[StreamEvent]) -> tuple[bytes, ...]:
    """Encode the events of one stream, which are in order, in parts of `PART_EVENTS`."""
    starts = range(0, len(events), PART_EVENTS)
    return tuple(
        encode_events([(0, 0, seq, event) for seq, event in enumerate(events[start : start + PART_EVENTS], start)])
        for start in starts
    )


def plain_events(parts: Iterable[bytes]) -> list[StreamEvent]:
    """Decode what `encoded` wrote."""
    return [event for part in parts for _, _, _, event in decode_events(part)]


def output_tokens(events: Sequence[StreamEvent]) -> int:
    """Output tokens that `events` hold, which are those of one choice and in order."""
    last = next((event for event in reversed(events) if isinstance(event, TokenDelta)), None)
    return 0 if last is None else last.index + last.count
