"""What is written for `/v1/responses`, as models for `/openapi.json`; see `answer_schema.py`."""

from __future__ import annotations

from typing import Literal

from serve_app.openai_api.answer_schema import Document
from serve_app.openai_api.responses_document import Status

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Document):
    """One part of an output message."""

    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: list[None]


class InputText(Document):
    """One part of an input message."""

    type: Literal["input_text"]
    text: str


class OutputMessage(Document):
    """The one item of a response's output."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class InputItem(Document):
    """A message that a response answers."""

    id: str
    type: Literal["message"]
    status: Literal["completed"]
    role: Literal["user", "assistant", "system", "developer"]
    content: list[InputText | OutputText]


class InputItemList(Document):
    """A page of the messages that a response answers."""

    object: Literal["list"]
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseError(Document):
    """Why a response failed: `code` is OpenAI's short list, `type` says it in the words of other errors' `code`."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    type: str | None = None


class IncompleteDetails(Document):
    """Why a response ended early."""

    reason: Literal["max_output_tokens"]


class PlainTextFormat(Document):
    """Plain text."""

    type: Literal["text"]


class ResponseText(Document):
    """The form of the output."""

    format: PlainTextFormat


class InputTokensDetails(Document):
    """Input tokens by kind."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Document):
    """Output tokens by kind."""

    reasoning_tokens: int


class ResponseUsage(Document):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseObject(Document):
    """A response as it stands."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: str | None
    temperature: float
    text: ResponseText
    tool_choice: Literal["auto"]
    tools: list[None]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(Document):
    """The response is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponseEvent(Document):
    """An event that brings the whole response."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: int
    response: ResponseObject


class OutputItemEvent(Document):
    """The output message begins or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputMessage


class ContentPartEvent(Document):
    """A part of the output message begins or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class OutputTextDeltaEvent(Document):
    """More text."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    logprobs: list[None]
    delta: str


class OutputTextDoneEvent(Document):
    """The whole text."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[None]


class InterruptionEvent(Document):
    """This connection ends, and the response goes on: read it again after `sequence_number`."""

    type: Literal["error"]
    sequence_number: int
    code: str
    message: str
    param: None


RESPONSE_EVENTS = (
    ResponseEvent,
    OutputItemEvent,
    ContentPartEvent,
    OutputTextDeltaEvent,
    OutputTextDoneEvent,
    InterruptionEvent,
)
"""The data of each event of a streamed response is one of these."""
