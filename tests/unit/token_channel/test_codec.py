"""The wire format."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import InternalError
from serve_app.core.events import (
    Accepted,
    ContentPart,
    Failed,
    Finished,
    FinishReason,
    ReasoningPart,
    TokenDelta,
    TokenLogprob,
    ToolCallPart,
    UsageCorrection,
)
from serve_app.token_channel.codec import (
    PROTOCOL_VERSION,
    Batch,
    MalformedMessage,
    UnsupportedVersion,
    WireEvent,
    check_version,
    decode_ack,
    decode_batch,
    decode_events,
    encode_ack,
    encode_batch,
    encode_events,
)

quick = settings(max_examples=60, deadline=None)
naturals = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
token_ids = st.lists(st.integers(0, 2**32), max_size=5)
logprobs = st.floats(allow_nan=False, max_value=0)
scored = st.builds(
    TokenLogprob, texts, logprobs, st.lists(st.tuples(texts, logprobs), max_size=3).map(lambda pairs: tuple(pairs))
)
corrections = st.builds(UsageCorrection, st.integers(-1000, 1000), st.integers(-1000, 1000))
parts = st.lists(
    st.builds(ContentPart, texts)
    | st.builds(ReasoningPart, texts)
    | st.builds(ToolCallPart, naturals, texts, st.none() | texts, st.none() | texts),
    max_size=3,
)
reasons = st.sampled_from(FinishReason)
events = st.one_of(
    st.builds(TokenDelta, naturals, naturals, naturals, texts, st.none() | token_ids),
    st.builds(TokenDelta, naturals, naturals, naturals, texts, st.none() | token_ids, st.lists(scored, max_size=3)),
    st.builds(
        TokenDelta, naturals, naturals, naturals, texts, st.none(), st.none() | st.lists(scored, max_size=3), parts
    ),
    st.builds(Accepted, naturals, st.none() | token_ids),
    st.builds(
        Finished,
        naturals,
        st.sampled_from(FinishReason),
        st.none() | texts | naturals,
        naturals,
        st.none() | corrections,
    ),
    st.builds(Failed, texts, texts, st.none() | texts, st.none() | st.floats(0, 1e6)),
)
wire_events = st.lists(st.tuples(naturals, naturals, naturals, events), max_size=6)
statuses = st.builds(
    EngineStatus,
    texts,
    texts,
    st.builds(EngineLoad, naturals, naturals, st.floats(0, 1), naturals, naturals),
    naturals,
    naturals,
    naturals,
    st.booleans(),
    naturals,
)
batches = st.builds(Batch, naturals, wire_events, st.none() | statuses, st.none() | naturals)


@quick
@given(batches)
def test_what_is_decoded_equals_what_was_encoded(batch: Batch) -> None:
    assert decode_batch(encode_batch(batch)) == batch


@quick
@given(wire_events)
def test_events_survive_outside_the_channel(sent: list[WireEvent]) -> None:
    assert decode_events(encode_events(tuple(sent))) == sent


@quick
@given(naturals)
def test_acknowledgements_carry_their_beat(beat: int) -> None:
    assert decode_ack(encode_ack(beat)) == beat


@quick
@given(batches, st.data())
def test_a_damaged_message_is_refused_or_decoded_but_never_crashes(batch: Batch, data: st.DataObject) -> None:
    damaged = bytearray(encode_batch(batch))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]

    with contextlib.suppress(MalformedMessage, UnsupportedVersion):
        assert isinstance(decode_batch(bytes(damaged)), Batch)


@quick
@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_batch(data)
    with pytest.raises(MalformedMessage):
        decode_ack(data)


def body(*values: Any) -> bytes:
    """A message with the right header around any body."""
    return encode_batch(Batch())[:4] + msgspec.msgpack.encode(values)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TC",
        body()[:4],
        body() + b"\x00",
        body(0, None, None, [], [])[:-1],
        body(0, None, None, [(1, 1, 0, 0, 0, [5], 7)], []),
        body(0, None, None, [(1, 1, 0, 0, 0, 5, "x")], []),
        body(0, None, None, [(1, 1, 0)], []),
        body(0, None, None, [], [(99, 0, 1, 1, 0)]),
        body(0, None, None, [], [(2, 0, 1, 1, 0, 0, "no such reason", None, 0)]),
        body(0, None, {"engine_id": "e"}, [], []),
        body(0, None, None, [(1, 1, 0, 0, 0, [5], b"\xff")], []),
        body()[:4] + b"\x95\x00\xc0\xc0\x91\x97\x01\x01\x00\x00\x00\x90\xa1\xff\x90",
        body()[:4] + b"\x91" * 100_000,
        encode_ack(3),
    ],
)
def test_malformed_batches_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_batch(data)


def test_a_batch_is_no_acknowledgement() -> None:
    with pytest.raises(MalformedMessage):
        decode_ack(encode_batch(Batch()))


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 255])
def test_another_protocol_version_is_refused_and_named(version: int) -> None:
    batch, ack = bytearray(encode_batch(Batch())), bytearray(encode_ack(1))
    batch[2] = ack[2] = version

    with pytest.raises(UnsupportedVersion, match=f"{version}.*{PROTOCOL_VERSION}"):
        decode_batch(bytes(batch))
    with pytest.raises(UnsupportedVersion):
        decode_ack(bytes(ack))
    with pytest.raises(UnsupportedVersion):
        check_version(version)


@pytest.mark.parametrize(
    "event",
    [
        TokenDelta(0, 0, 1, "\ud800", [1]),
        TokenDelta(0, 0, 1, "x", [2**70]),
        TokenDelta(0, 0, 1, "x", [object()]),  # type: ignore[list-item]  # a defect of an engine
        Failed("engine_failed", "\udfff"),
        None,
    ],
)
def test_an_event_without_encoding_fails_its_stream_and_no_other(event: Any) -> None:
    good = TokenDelta(0, 0, 1, "x", [1])

    decoded = decode_events(encode_events([(1, 1, 0, good), (2, 1, 0, event), (3, 1, 0, good)]))

    assert [wire_event[:3] for wire_event in decoded] == [(1, 1, 0), (2, 1, 0), (3, 1, 0)]
    assert [decoded[0][3], decoded[2][3]] == [good, good]
    failed = decoded[1][3]
    assert isinstance(failed, Failed)
    assert failed.code == InternalError.code


def test_a_token_takes_few_bytes() -> None:
    rows: list[WireEvent] = [(10**6 + n, 1, 50, TokenDelta(0, 50, 1, " word", [20_000 + n])) for n in range(64)]

    assert len(encode_events(rows)) / 64 < 24
