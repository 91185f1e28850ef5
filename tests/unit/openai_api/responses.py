"""Responses to write, and what was written as OpenAI's own types read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Sampling
from serve_app.openai_api.responses_document import ResponseRecord

RECORD = ResponseRecord("resp_1", 1_700_000_000)
BACKGROUND = ResponseRecord("resp_1", 1_700_000_000, background=True)
REQUEST = GenerationRequest(
    "req-1", "a/model", Prompt(messages=({"role": "user", "content": "hello"},)), Sampling(max_tokens=9)
)
_adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def said(*texts: str, reason: FinishReason = FinishReason.STOP) -> list[StreamEvent]:
    """The events of a whole stream; each text is one delta of one token."""
    deltas = [TokenDelta(0, place, 1, text, [100 + place]) for place, text in enumerate(texts)]
    return [Accepted(3, [1, 2, 3]), *deltas, Finished(0, reason, None, 2)]


def checked_events(stream: str) -> list[dict[str, Any]]:
    """The events of a body, each validated by OpenAI's types; comments are left out."""
    events: list[dict[str, Any]] = []
    for block in stream.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":") or not block:
            continue
        # As naive clients read lines: Python's own idea of a line break.
        name, data = block.splitlines()
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        check_exactly(_adapter.validate_python(event, strict=True).model_dump(mode="json"), event)
        events.append(event)
    return events


def check_response(document: dict[str, Any]) -> Response:
    """`document` as OpenAI's type, which must know all of its fields."""
    response = Response.model_validate(document, strict=True)
    check_exactly(response.model_dump(mode="json"), document)
    return response


def check_exactly(known: Any, given: Any) -> None:
    """Every field of `given` must be one that OpenAI's types know, with the same value."""
    if isinstance(given, dict):
        for name, value in given.items():
            assert name in known, name
            check_exactly(known[name], value)
    elif isinstance(given, list):
        assert len(known) == len(given)
        for one, other in zip(known, given, strict=True):
            check_exactly(one, other)
    else:
        assert known == given


def types_of(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def numbers_of(events: Sequence[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]
