"""From the body of `POST /v1/responses` to the project's own words, or an `InvalidRequest` that names the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from serve_app.core.request import Sampling
from serve_app.openai_api.parameters import without_foreign_parameters
from serve_app.openai_api.parse import json_object
from serve_app.openai_api.responses_schema import HINTS, NOT_SUPPORTED, InputMessage, ResponseRequest
from serve_app.openai_api.validation_errors import first_error


@dataclass(frozen=True, slots=True)
class ParsedResponseRequest:
    """A valid request for one response."""

    model: str
    messages: tuple[dict[str, Any], ...]
    """The request's own input, as a chat template takes it: without instructions and earlier responses."""
    instructions: str | None
    sampling: Sampling
    stream: bool
    background: bool
    store: bool
    previous_response_id: str | None
    metadata: dict[str, str]
    user: str | None
    parallel_tool_calls: bool


def parse_response_request(body: bytes) -> ParsedResponseRequest:
    """Parse the body of `POST /v1/responses`. Raises `InvalidRequest`."""
    document = without_foreign_parameters(json_object(body), ResponseRequest.model_fields, NOT_SUPPORTED, HINTS)
    try:
        fields = ResponseRequest.model_validate(document)
    except ValidationError as error:
        raise first_error(error) from None
    return ParsedResponseRequest(
        model=fields.model,
        messages=_messages(fields.input),
        instructions=fields.instructions,
        sampling=Sampling(
            max_tokens=fields.max_output_tokens,
            temperature=1.0 if fields.temperature is None else float(fields.temperature),
            top_p=1.0 if fields.top_p is None else float(fields.top_p),
            seed=fields.seed,
            ignore_eos=bool(fields.ignore_eos),
        ),
        stream=bool(fields.stream),
        background=bool(fields.background),
        store=fields.store is not False,
        previous_response_id=fields.previous_response_id,
        metadata=fields.metadata or {},
        user=fields.user,
        parallel_tool_calls=fields.parallel_tool_calls is not False,
    )


def _messages(given: str | list[InputMessage]) -> tuple[dict[str, Any], ...]:
    if isinstance(given, str):
        return ({"role": "user", "content": given},)
    return tuple({"role": message.role, "content": _text(message)} for message in given)


def _text(message: InputMessage) -> str:
    """The message's text; parts are joined as those of chat messages are."""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if part.text is not None)
