from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import (
    ClientTooSlow,
    EngineLost,
    InvalidRequest,
    QueueFull,
    ServeAppError,
    StreamCancelled,
)
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.openai_api.responses_document import ResponseRecord
from serve_app.openai_api.responses_events import ResponseEventWriter
from tests.unit.openai_api.responses import (
    BACKGROUND,
    RECORD,
    REQUEST,
    check_response,
    checked_events,
    numbers_of,
    said,
    types_of,
)

BEGINNING = ["created", "in_progress", "output_item.added", "content_part.added"]
END = ["output_text.done", "content_part.done", "output_item.done"]
DELTA = "output_text.delta"


def written(
    events: list[StreamEvent], record: ResponseRecord = RECORD, starting_after: int = -1
) -> list[dict[str, Any]]:
    writer = ResponseEventWriter(record, REQUEST, starting_after)
    return checked_events((writer.write(events) + writer.closing()).decode())


def test_a_response_is_told_in_the_order_of_openai_and_numbered_from_zero() -> None:
    events = written(said("Hel", "lo"))
    assert types_of(events) == [*BEGINNING, DELTA, DELTA, *END, "completed"]
    assert numbers_of(events) == list(range(10))


def test_a_background_response_is_queued_first() -> None:
    events = written(said("Hello"), BACKGROUND)
    assert types_of(events) == ["created", "queued", *BEGINNING[1:], DELTA, *END, "completed"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]


def test_all_events_tell_the_same_text_and_items() -> None:
    events = written(said("Grüße ", "\u2028", "", "👩‍👩‍👧", "\n\n", "\x85"))
    text = "Grüße \u2028👩‍👩‍👧\n\n\x85"
    assert "".join(event["delta"] for event in events if event["type"].endswith("delta")) == text
    done, part, item, completed = events[-4:]
    assert done["text"] == part["part"]["text"] == text
    assert completed["response"]["output"] == [item["item"]]
    assert item["item"]["content"] == [part["part"]]
    added = events[2]["item"]
    assert (added["id"], added["status"], added["content"]) == (item["item"]["id"], "in_progress", [])
    ids = {event["item_id"] for event in events if "item_id" in event}
    assert ids == {added["id"]} == {"msg_1"}


def test_line_breaks_of_unicode_in_what_the_client_sent_break_no_event() -> None:
    record = ResponseRecord("resp_1", 1_700_000_000, metadata={"a": "\u2028\x85"})
    assert written(said("a"), record)[0]["response"]["metadata"] == {"a": "\u2028\x85"}


def test_a_completed_response_has_its_usage() -> None:
    response = check_response(written(said("a", "b"))[-1]["response"])
    assert response.status == "completed"
    assert response.usage is not None
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3, 2, 5)
    assert usage.input_tokens_details.cached_tokens == 2
    assert response.output_text == "ab"
    assert response.max_output_tokens == 9


def test_an_answer_that_reached_its_limit_is_incomplete() -> None:
    *_, item, last = written(said("a", reason=FinishReason.LENGTH))
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == item["item"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_empty_answer_has_an_empty_message() -> None:
    events = written([Accepted(1, [1]), Finished(0, FinishReason.STOP)])
    assert types_of(events) == [*BEGINNING, *END, "completed"]
    assert check_response(events[-1]["response"]).output_text == ""


def test_nothing_is_written_before_there_is_output_so_that_errors_can_have_a_status() -> None:
    writer = ResponseEventWriter(RECORD, REQUEST)
    assert writer.write([Accepted(1, [1])]) == b""
    assert not writer.begun
    assert types_of(checked_events(writer.write([TokenDelta(0, 0, 1, "", [1])]).decode())) == BEGINNING
    assert writer.begun


def test_a_response_that_waits_is_opened_once() -> None:
    writer = ResponseEventWriter(BACKGROUND, REQUEST)
    assert types_of(checked_events(writer.opening().decode())) == ["created", "queued"]
    assert writer.opening() == b""
    assert types_of(checked_events(writer.write([Accepted(1, [1])]).decode())) == ["in_progress"]
    rest = checked_events(writer.write(said("a")[1:]).decode())
    assert types_of(rest) == [*BEGINNING[2:], DELTA, *END, "completed"]


@pytest.mark.parametrize("record", [RECORD, BACKGROUND])
@pytest.mark.parametrize("opened_first", [False, True])
def test_after_each_number_comes_exactly_the_rest(record: ResponseRecord, opened_first: bool) -> None:
    stream = said("a", "", "b", "c")
    whole = written(stream, record)
    for number in range(-1, len(whole) + 2):
        writer = ResponseEventWriter(record, REQUEST, number)
        body = writer.opening() if opened_first else b""
        for event in stream:
            body += writer.write([event])
        assert checked_events(body.decode()) == whole[number + 1 :]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["", "a", "é", "\u2028"]), max_size=8),
    st.lists(st.integers(0, 10)),
    st.booleans(),
    st.sampled_from([RECORD, BACKGROUND]),
)
def test_the_same_events_are_numbered_alike_however_they_arrive(
    texts: list[str], cuts: list[int], opened_first: bool, record: ResponseRecord
) -> None:
    stream = said(*texts)
    writer = ResponseEventWriter(record, REQUEST)
    body = writer.opening() if opened_first else b""
    places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    for start, end in pairwise(places):
        body += writer.write(stream[start:end])
    assert checked_events(body.decode()) == written(stream, record)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineLost("the replica died"), "server_error"),
        (QueueFull("full"), "rate_limit_exceeded"),
        (InvalidRequest("no such token"), "invalid_prompt"),
    ],
)
def test_a_failed_response_says_why_and_what_it_had(error: ServeAppError, code: str) -> None:
    writer = ResponseEventWriter(RECORD, REQUEST)
    body = writer.write(said("a", "b")[:2]) + writer.failure(error)
    events = checked_events(body.decode())
    assert types_of(events) == [*BEGINNING, DELTA, "failed"]
    assert numbers_of(events) == list(range(6))
    response = check_response(events[-1]["response"])
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.message, response.error.type) == (code, error.message, error.code)
    assert response.output_text == "a"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]  # a message


def test_a_response_that_fails_before_its_first_token_is_opened_before() -> None:
    events = checked_events(ResponseEventWriter(BACKGROUND, REQUEST).failure(QueueFull("full")).decode())
    assert types_of(events) == ["created", "queued", "failed"]
    assert numbers_of(events) == [0, 1, 2]
    assert events[-1]["response"]["usage"] is None


def test_a_cancelled_response_ends_with_its_own_status_and_no_error() -> None:
    writer = ResponseEventWriter(BACKGROUND, REQUEST)
    writer.write(said("a")[:2])
    (last,) = checked_events(writer.failure(StreamCancelled("cancelled")).decode())
    assert last["type"] == "response.incomplete"
    assert (last["response"]["status"], last["response"]["error"]) == ("cancelled", None)
    assert last["response"]["incomplete_details"] is None


def test_a_lost_connection_repeats_the_last_number_so_that_nothing_is_missed_after_it() -> None:
    stream = said("a", "b")
    writer = ResponseEventWriter(RECORD, REQUEST)
    seen = checked_events(writer.write(stream[:2]).decode())
    (error,) = checked_events(writer.interruption(ClientTooSlow("too slow")).decode())
    assert (error["type"], error["code"], error["message"]) == ("error", "client_too_slow", "too slow")
    assert seen + written(stream, starting_after=error["sequence_number"]) == written(stream)


def test_an_interruption_never_sends_a_client_back() -> None:
    writer = ResponseEventWriter(RECORD, REQUEST, starting_after=7)
    writer.opening()
    (error,) = checked_events(writer.interruption(ClientTooSlow("too slow")).decode())
    assert error["sequence_number"] == 7
