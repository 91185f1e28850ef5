"""Packed events beside an ordinary list of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)
from serve_app.openai_api.collected_answer import CollectedAnswer
from serve_app.openai_api.event_reader import EventReader
from serve_app.token_channel.brief_answer import joined
from serve_app.token_channel.codec import MalformedMessage, UnsupportedVersion
from serve_app.token_channel.packed_events import PackedEvents, pack, unpack

SCORED = [TokenLogprob("x", -0.5, (("y", -1.0),)), TokenLogprob("\u00e4", -0.1)]
EVENTS: list[StreamEvent] = [
    Accepted(2, [1, 2]),
    TokenDelta(0, 0, 1, "", [5]),
    TokenDelta(0, 1, 2, "\u00e4", [6, 7], SCORED),
    TokenDelta(0, 3, 1, "z", [8]),
    TokenDelta(0, 4, 0, " end", []),
    Finished(0, FinishReason.LENGTH, None, 1),
]

texts = st.text(max_size=4) | st.sampled_from(["\ud83d", "\U0001f600", ""])
logprobs = st.builds(
    TokenLogprob,
    st.text(max_size=2),
    st.floats(-9, 0, width=32),
    st.lists(st.tuples(st.text(max_size=2), st.floats(-9, 0, width=32)), max_size=2).map(tuple),
)


@st.composite
def streams(draw: st.DrawFn) -> list[StreamEvent]:
    """Events of any kind in any order: gaps, several choices, texts without tokens, tokens that are not known."""
    events: list[StreamEvent] = draw(st.sampled_from([[], [Accepted(2, [1, 2])]]))
    index = draw(st.integers(0, 3))
    odd = draw(st.booleans())
    known, scored = draw(st.booleans()), draw(st.booleans())
    for _ in range(draw(st.integers(0, 12))):
        count = draw(st.integers(0, 300 if odd else 3))
        if odd:
            known, scored = draw(st.booleans()), draw(st.booleans())
            index += draw(st.integers(0, 1))
        ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=count, max_size=count)) if known else None
        shown = draw(st.lists(logprobs, max_size=3)) if scored else None
        text = draw(texts)
        typed: list[list[OutputPart] | None] = [None, [ContentPart(text)], [ReasoningPart(text)]]
        if odd:
            typed += [[ToolCallPart(0, "{")], [ReasoningPart("x"), ContentPart("y"), ContentPart("z")], []]
        parts = draw(st.sampled_from(typed))
        events.append(TokenDelta(draw(st.integers(0, 1)) if odd else 0, index, count, text, ids, shown, parts))
        index += count
    ends = [[], [Finished(0, FinishReason.STOP, "x", 3)], [Failed("engine_lost", "gone")]]
    return events + draw(st.sampled_from(ends))


def contents(events: Iterable[StreamEvent]) -> int:
    """How often a reader is told content."""

    class Counting(EventReader):
        times = 0

        def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
            self.times += bool(text)

    reader = Counting(2)
    reader.read(events)
    return reader.times


def told(events: Iterable[StreamEvent]) -> Any:
    """What a reader of the whole learns, but for log-probabilities."""
    answer = CollectedAnswer(2, 2, (event for event in events if not isinstance(event, Failed)))
    choices = [(choice.text, choice.reasoning, choice.tool_calls, choice.finished) for choice in answer.choices]
    return choices, answer.usage.document(), answer.accepted, answer.begun


@given(events=streams())
def test_all_that_is_asked_of_them_is_what_a_list_would_say(events: list[StreamEvent]) -> None:
    deltas = [event for event in events if isinstance(event, TokenDelta)]
    packed = PackedEvents.of(pack(events))
    if any("\ud83d" in delta.text for delta in deltas) and any(
        isinstance(event, Failed) and "encod" in event.message for event in packed.events()
    ):
        return  # an odd delta whose text is no Unicode travels as `Failed`, as on the channel

    assert packed.events() == unpack([pack(events)]) == events
    assert len(packed) == len(events)
    assert packed.text == "".join(delta.text for delta in deltas)
    assert packed.texts == contents(events)
    assert told(packed.brief()) == told(joined(events)) == told(events)
    assert packed.tokens == max((delta.end for delta in deltas), default=0)
    assert packed.position == max((delta.position for delta in deltas), default=0)
    assert packed.ends_with_delta == (bool(events) and isinstance(events[-1], TokenDelta))
    assert packed.shown_lengths() == [len(shown.token) for delta in deltas for shown in delta.logprobs or ()]
    starts = [*accumulate((delta.count for delta in deltas), initial=deltas[0].index if deltas else 0)]
    whole = all(delta.token_ids is not None and delta.index == at for delta, at in zip(deltas, starts, strict=False))
    ids = packed.token_ids(starts[0])
    assert (None if ids is None else list(ids)) == (
        [token for delta in deltas for token in delta.token_ids or ()] if whole else None
    )


def test_plain_deltas_take_few_bytes() -> None:
    plain: list[StreamEvent] = [TokenDelta(0, index, 1, "word ", [index]) for index in range(256)]
    assert len(pack(plain)) < 256 * (len("word ") + 4 + 2) + 80


def test_text_and_token_ids_are_read_through_what_is_odd() -> None:
    packed = PackedEvents.of(pack(EVENTS))
    assert (packed.text, packed.texts, packed.tokens, packed.position) == ("\u00e4z end", 3, 4, 5)
    assert list(packed.token_ids(0) or ()) == [5, 6, 7, 8]
    assert packed.token_ids(1) is None


def test_a_log_probability_without_encoding_is_told_as_on_the_channel() -> None:
    strange = TokenDelta(0, 0, 1, "a", [1], [TokenLogprob("x", object())])  # type: ignore[arg-type]  # a defect's
    first, second = PackedEvents.of(pack([strange, TokenDelta(0, 1, 1, "b", [2])])).events()
    assert isinstance(first, Failed)
    assert second == TokenDelta(0, 1, 1, "b", [2])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", MalformedMessage),
        (b"TC\x02B\x90", MalformedMessage),
        (b"TC\x02P\x01", MalformedMessage),
        (b"TC\x63P", UnsupportedVersion),
    ],
)
def test_other_bytes_are_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        PackedEvents.of(data)
