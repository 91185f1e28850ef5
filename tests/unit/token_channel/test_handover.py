"""How a stream's events travel when it changes its owner."""

from __future__ import annotations

import pickle

from serve_app.core.errors import StreamCancelled
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta, TokenLogprob
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.token_channel.handover import (
    PART_EVENTS,
    Claim,
    HandedOver,
    Moved,
    encoded,
    event_bytes,
    output_tokens,
    plain_events,
)

EVENTS: list[StreamEvent] = [
    Accepted(2, [1, 2]),
    TokenDelta(0, 0, 1, "", [5]),
    TokenDelta(0, 1, 2, "ä", [6, 7], [TokenLogprob("x", -0.5, (("y", -1.0),)), TokenLogprob("ä", -0.1)]),
    Finished(0, FinishReason.LENGTH, None, 1),
]


def test_events_arrive_as_they_were():
    assert plain_events(encoded(EVENTS)) == EVENTS
    assert plain_events(encoded([])) == []


def test_many_events_are_encoded_in_parts():
    many: list[StreamEvent] = [EVENTS[0], *(TokenDelta(0, index, 1, "a", [5]) for index in range(2 * PART_EVENTS))]
    parts = encoded(many)
    assert len(parts) == 3
    assert [len(plain_events([part])) for part in parts] == [PART_EVENTS, PART_EVENTS, 1]
    assert plain_events(parts) == many


def test_tokens_are_counted_by_the_last_of_them():
    assert [output_tokens(EVENTS[:count]) for count in range(5)] == [0, 0, 1, 3, 3]


def test_what_is_handed_over_survives_pickling_with_its_error():
    request = GenerationRequest("r", "m", Prompt(text="hi"), retention=Retention("k"))
    part = HandedOver(request, encoded(EVENTS), 3, True, StreamCancelled("enough"))
    copy = pickle.loads(pickle.dumps(part))

    assert copy.events() == EVENTS
    assert isinstance(copy.error, StreamCancelled) and copy.error.message == "enough"
    assert pickle.loads(pickle.dumps(Moved())) == Moved()
    assert pickle.loads(pickle.dumps(Claim("k", "t", "r"))) == Claim("k", "t", "r")


def test_size_grows_with_tokens_and_text():
    small, large = TokenDelta(0, 0, 1, "a", [1]), TokenDelta(0, 0, len([1] * 10), "a" * 100, [1] * 10)
    assert event_bytes(large) - event_bytes(small) >= 99 + 9 * 8
    assert event_bytes(Accepted(len([1] * 100), [1] * 100)) > event_bytes(Accepted(1, [1]))
