"""The channel's wire format: batches of stream events to the router, acknowledgements back.

A message is a header of four bytes (`TC`, protocol version, kind) and a msgpack array. Plain token deltas, nearly all
of the traffic, are rows of eight values, which msgspec checks and decodes without an object per row; the rest are
tagged arrays with their place in the batch. docs/adr/0001-token-channel.md has the measured alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import InternalError
from serve_app.core.events import (
    Accepted,
    ContentPart,
    Failed,
    Finished,
    FinishReason,
    OutputPart,
    ReasoningPart,
    StreamEvent,
    TokenDelta,
    TokenLogprob,
    ToolCallPart,
    UsageCorrection,
)

PROTOCOL_VERSION = 2
"""Raised with each change of the wire format; sides of different versions refuse each other."""

WireEvent = tuple[int, int, int, StreamEvent]
"""(stream_id, attempt, seq, event); `seq` counts the events of one stream attempt from 0."""

_MAGIC = b"TC"
_BATCH = _MAGIC + bytes([PROTOCOL_VERSION]) + b"B"
_CONTENT, _REASONING, _TOOL_CALL = "c", "r", "t"
_ACK = _MAGIC + bytes([PROTOCOL_VERSION]) + b"A"


class MalformedMessage(InternalError):
    """Bytes that are no message of this protocol."""


class UnsupportedVersion(InternalError):
    """A message or endpoint of another protocol version."""


@dataclass(slots=True)
class Batch:
    """One message of an engine to a router."""

    number: int = 0
    """Counts the messages to this router since the engine attached to it, dropped ones included."""
    events: list[WireEvent] = field(default_factory=list)
    status: EngineStatus | None = None
    beat: int | None = None
    """When set, the router answers with an acknowledgement that carries it."""


_Row = tuple[int, int, int, int, int, int, str, list[int] | None]
_WirePart = tuple[str, str, int, str | None, str | None]
"""Kind, text or arguments, and of a tool call its number, id and name."""
_WireLogprob = tuple[str, float, tuple[tuple[str, float], ...]]


class _Other(msgspec.Struct, array_like=True):
    """An event that is not a plain row; `place` is its index in the batch."""

    place: int
    stream_id: int
    attempt: int
    seq: int


class _Accepted(_Other, tag=0):
    prompt_tokens: int
    prompt_token_ids: list[int] | None

    def event(self) -> StreamEvent:
        return Accepted(self.prompt_tokens, self.prompt_token_ids)


class _Detailed(_Other, tag=1):
    choice: int
    index: int
    count: int
    text: str
    token_ids: list[int] | None
    logprobs: list[_WireLogprob] | None
    parts: list[_WirePart] | None

    def event(self) -> StreamEvent:
        logprobs = None if self.logprobs is None else [TokenLogprob(*logprob) for logprob in self.logprobs]
        parts = None if self.parts is None else [_part(*part) for part in self.parts]
        return TokenDelta(self.choice, self.index, self.count, self.text, self.token_ids, logprobs, parts)


class _Finished(_Other, tag=2):
    choice: int
    reason: FinishReason
    stop_reason: str | int | None
    cached_tokens: int
    correction: tuple[int, int] | None

    def event(self) -> StreamEvent:
        correction = None if self.correction is None else UsageCorrection(*self.correction)
        return Finished(self.choice, self.reason, self.stop_reason, self.cached_tokens, correction)


class _Failed(_Other, tag=3):
    code: str
    message: str
    param: str | None
    retry_after_s: float | None

    def event(self) -> StreamEvent:
        return Failed(self.code, self.message, self.param, self.retry_after_s)


class _Body(msgspec.Struct, array_like=True):
    number: int
    beat: int | None
    status: EngineStatus | None
    rows: list[_Row]
    others: list[_Accepted | _Detailed | _Finished | _Failed]


_encoder = msgspec.msgpack.Encoder()
_body_decoder = msgspec.msgpack.Decoder(_Body)
_ack_decoder = msgspec.msgpack.Decoder(int)


def encode_batch(batch: Batch) -> bytes:
    """Encode `batch`. An event that cannot be encoded (text that is no Unicode, numbers that are no Python numbers)
    travels as `Failed`, so that its stream ends visibly.
    """
    try:
        return _encode(batch, batch.events)
    except (TypeError, ValueError, OverflowError):
        return _encode(batch, [_encodable(event) for event in batch.events])


def decode_batch(data: bytes) -> Batch:
    """Decode what `encode_batch` wrote. Raises `UnsupportedVersion` or `MalformedMessage`."""
    _check_header(data, _BATCH)
    try:
        body = _body_decoder.decode(memoryview(data)[len(_BATCH) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not a batch: {error}") from error
    events: list[WireEvent] = [
        (stream_id, attempt, seq, TokenDelta(choice, index, count, text, token_ids))
        for stream_id, attempt, seq, choice, index, count, text, token_ids in body.rows
    ]
    for other in body.others:
        events.insert(other.place, (other.stream_id, other.attempt, other.seq, other.event()))
    return Batch(body.number, events, body.status, body.beat)


def encode_events(events: Sequence[WireEvent]) -> bytes:
    """Encode events outside the channel, as the retained log's reply does; treats what cannot be encoded alike."""
    return encode_batch(Batch(events=list(events)))


def decode_events(data: bytes) -> list[WireEvent]:
    """Decode what `encode_events` wrote. Raises `UnsupportedVersion` or `MalformedMessage`."""
    return decode_batch(data).events


def encode_ack(beat: int) -> bytes:
    """Encode the router's acknowledgement of the batch that carried `beat`."""
    return _ACK + _encoder.encode(beat)


def decode_ack(data: bytes) -> int:
    """Return the acknowledged `beat`. Raises `UnsupportedVersion` or `MalformedMessage`."""
    _check_header(data, _ACK)
    try:
        return _ack_decoder.decode(memoryview(data)[len(_ACK) :])
    except msgspec.MsgspecError as error:
        raise MalformedMessage(f"not an acknowledgement: {error}") from error


def check_version(version: int) -> None:
    """Raise `UnsupportedVersion` when a peer that speaks `version` cannot be understood."""
    if version != PROTOCOL_VERSION:
        raise UnsupportedVersion(f"token channel protocol {version}, this side speaks {PROTOCOL_VERSION}")


def _check_header(data: bytes, expected: bytes) -> None:
    header = data[: len(expected)]
    if header == expected:
        return
    if len(header) == len(expected) and header[:2] == _MAGIC:
        check_version(header[2])
    raise MalformedMessage(f"unexpected header {header!r}")


def _encode(batch: Batch, events: Sequence[WireEvent]) -> bytes:
    rows: list[_Row] = []
    others: list[_Other] = []
    for stream_id, attempt, seq, event in events:
        if type(event) is TokenDelta and event.logprobs is None and event.parts is None:
            rows.append((stream_id, attempt, seq, event.choice, event.index, event.count, event.text, event.token_ids))
        else:
            others.append(_other(len(rows) + len(others), stream_id, attempt, seq, event))
    return _BATCH + _encoder.encode((batch.number, batch.beat, batch.status, rows, others))


def _other(place: int, stream_id: int, attempt: int, seq: int, event: StreamEvent) -> _Other:
    match event:
        case TokenDelta(choice, index, count, text, token_ids, logprobs, parts):
            scored = None if logprobs is None else [(drawn.token, drawn.logprob, drawn.top) for drawn in logprobs]
            typed = None if parts is None else [_wire_part(part) for part in parts]
            return _Detailed(place, stream_id, attempt, seq, choice, index, count, text, token_ids, scored, typed)
        case Accepted(prompt_tokens, prompt_token_ids):
            return _Accepted(place, stream_id, attempt, seq, prompt_tokens, prompt_token_ids)
        case Finished(choice, reason, stop_reason, cached_tokens, correction):
            added = None if correction is None else (correction.prompt_tokens, correction.completion_tokens)
            return _Finished(place, stream_id, attempt, seq, choice, reason, stop_reason, cached_tokens, added)
        case Failed(code, message, param, retry_after_s):
            return _Failed(place, stream_id, attempt, seq, code, message, param, retry_after_s)
    raise TypeError(f"not a stream event: {event!r}")


def _wire_part(part: OutputPart) -> _WirePart:
    match part:
        case ContentPart(text):
            return _CONTENT, text, 0, None, None
        case ReasoningPart(text):
            return _REASONING, text, 0, None, None
        case ToolCallPart(index, arguments, call_id, name):
            return _TOOL_CALL, arguments, index, call_id, name


def _part(kind: str, text: str, index: int, call_id: str | None, name: str | None) -> OutputPart:
    if kind == _TOOL_CALL:
        return ToolCallPart(index, text, call_id, name)
    return ReasoningPart(text) if kind == _REASONING else ContentPart(text)


def _encodable(wire_event: WireEvent) -> WireEvent:
    stream_id, attempt, seq, event = wire_event
    try:
        _encode(Batch(), [wire_event])
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).encode("utf-8", "replace").decode()
        return stream_id, attempt, seq, Failed(InternalError.code, f"{type(event).__name__} has no encoding: {reason}")
    return wire_event
