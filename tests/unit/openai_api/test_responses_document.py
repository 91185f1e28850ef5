from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from serve_app.core.errors import EngineLost, ServeAppError, StreamCancelled, StreamNotFound
from serve_app.core.events import Accepted, FinishReason, StreamEvent
from serve_app.core.request import Prompt, Retention
from serve_app.openai_api.collected_answer import CollectedAnswer
from serve_app.openai_api.responses_document import (
    ResponseRecord,
    Status,
    conversation_after,
    document,
    input_items,
    record_of,
    response_object,
    status_of,
)
from serve_app.router.streams.kept_answer import state_of
from serve_app.token_channel.event_log import EventLog
from tests.unit.openai_api.responses import BACKGROUND, RECORD, REQUEST, check_exactly, check_response, said

FULL = ResponseRecord(
    "resp_2",
    1_700_000_000,
    background=True,
    instructed=True,
    previous_response_id="resp_1",
    metadata={"a": "b"},
    user="u",
    parallel_tool_calls=False,
)
TALK = replace(
    REQUEST,
    prompt=Prompt(
        messages=(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two\u2028"},
            {"role": "user", "content": "three"},
        )
    ),
)


@pytest.mark.parametrize("record", [RECORD, BACKGROUND, FULL])
def test_a_record_survives_retention(record: ResponseRecord) -> None:
    assert record_of(replace(REQUEST, retention=Retention("k", record.encode()))) == record


@pytest.mark.parametrize("envelope", [b"", b"\x93\x01\x02\x03", b"{}", b'{"type":"chat","id":"resp_1","created_at":1}'])
def test_the_stream_of_another_api_is_no_response(envelope: bytes) -> None:
    with pytest.raises(StreamNotFound):
        record_of(replace(REQUEST, retention=Retention("k", envelope)))


def test_a_stream_that_is_not_retained_is_no_response() -> None:
    with pytest.raises(StreamNotFound):
        record_of(REQUEST)


@pytest.mark.parametrize(
    ("events", "ended", "error", "status"),
    [
        ([], False, None, Status.QUEUED),
        ([Accepted(1, [1])], False, None, Status.IN_PROGRESS),
        (said("a")[:2], False, None, Status.IN_PROGRESS),
        (said("a"), True, None, Status.COMPLETED),
        (said("a", reason=FinishReason.LENGTH), True, None, Status.INCOMPLETE),
        (said("a")[:2], True, EngineLost("lost"), Status.FAILED),
        (said("a")[:2], True, StreamCancelled("cancelled"), Status.CANCELLED),
        (said("a")[:2], True, None, Status.FAILED),
    ],
)
def test_each_status_is_a_document_that_openais_types_read(
    events: list[StreamEvent], ended: bool, error: ServeAppError | None, status: Status
) -> None:
    answer = CollectedAnswer(events=events)
    assert status_of(answer, ended, error) is status
    shown = json.loads(document(response_object(RECORD, REQUEST, answer, status, error)))
    response = check_response(shown)
    assert response.status == status
    assert (response.error is not None) is (status is Status.FAILED)
    assert (response.usage is not None) is ended
    assert response.output_text == answer.first.text


def test_a_response_repeats_what_was_asked() -> None:
    shown = json.loads(document(response_object(FULL, TALK, CollectedAnswer(), Status.QUEUED)))
    response = check_response(shown)
    assert (response.id, response.created_at, response.model) == ("resp_2", 1_700_000_000, "a/model")
    assert response.instructions == "Be brief."
    assert (response.metadata, response.user, response.previous_response_id) == ({"a": "b"}, "u", "resp_1")
    assert (response.background, response.parallel_tool_calls) == (True, False)
    assert response.output == []


def test_input_items_are_the_conversation_without_instructions() -> None:
    items: list[dict[str, Any]] = json.loads(document(input_items(FULL, TALK)))
    adapter: TypeAdapter[ResponseItem] = TypeAdapter(ResponseItem)
    for item in items:
        check_exactly(adapter.validate_python(item, strict=True).model_dump(mode="json"), item)
    assert [(item["role"], item["content"][0]["type"]) for item in items] == [
        ("user", "input_text"),
        ("assistant", "output_text"),
        ("user", "input_text"),
    ]
    assert [item["content"][0]["text"] for item in items] == ["one", "two\u2028", "three"]
    assert len({item["id"] for item in items}) == 3


def test_a_conversation_goes_on_with_the_output_and_without_instructions() -> None:
    after = conversation_after(FULL, state_of(TALK, EventLog(said("fo", "ur")), True, None))
    assert [message["content"] for message in after] == ["one", "two\u2028", "three", "four"]
    assert after[-1]["role"] == "assistant"


def test_a_response_without_output_adds_no_message() -> None:
    after = conversation_after(RECORD, state_of(REQUEST, EventLog(), True, EngineLost("lost")))
    assert after == REQUEST.prompt.messages
