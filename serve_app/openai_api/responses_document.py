"""OpenAI's Response object, and the other documents of its API, from a request and what was generated for it.

See https://platform.openai.com/docs/api-reference/responses/object.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from serve_app.core.errors import InvalidRequest, ServeAppError, StreamCancelled, StreamNotFound
from serve_app.core.events import FinishReason
from serve_app.core.interfaces import KeptState
from serve_app.core.request import GenerationRequest
from serve_app.openai_api.collected_answer import CollectedAnswer
from serve_app.openai_api.json_text import escape_line_breaks, json_string

_encode = msgspec.json.Encoder().encode


class Status(enum.StrEnum):
    """Where a response stands."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ResponseRecord(msgspec.Struct, frozen=True, tag="response", omit_defaults=True):
    """What a response's document says beyond its request and output; retained with them, as JSON.

    Bounded by the request's schema to about 12 KiB.
    """

    id: str
    created_at: int
    """Unix time in seconds."""
    background: bool = False
    instructed: bool = False
    """The request's first message is its `instructions`."""
    previous_response_id: str | None = None
    metadata: dict[str, str] = {}
    user: str | None = None
    parallel_tool_calls: bool = True
    seal: str = ""
    """Tells the request that began the response from others that come with the same idempotency key."""

    @property
    def message_id(self) -> str:
        """Id of the one output item."""
        return f"msg_{self.id.removeprefix('resp_')}"

    def encode(self) -> bytes:
        """The bytes to retain."""
        return _encode(self)


_decoder = msgspec.json.Decoder(ResponseRecord)


def record_of(request: GenerationRequest) -> ResponseRecord:
    """The record that was retained with `request`. Raises `StreamNotFound` when it is the stream of another API."""
    try:
        return _decoder.decode(request.retention.envelope if request.retention is not None else b"")
    except msgspec.DecodeError:
        raise StreamNotFound("The stream of this id is no response.") from None


def status_of(answer: CollectedAnswer, ended: bool, error: ServeAppError | None) -> Status:
    """Where the response stands that has `answer` so far."""
    if isinstance(error, StreamCancelled):
        return Status.CANCELLED
    if error is not None:
        return Status.FAILED
    finished = answer.first.finished
    if finished is not None:
        return Status.INCOMPLETE if finished.reason is FinishReason.LENGTH else Status.COMPLETED
    if ended:
        return Status.FAILED
    return Status.IN_PROGRESS if answer.accepted else Status.QUEUED


def response_object(
    record: ResponseRecord,
    request: GenerationRequest,
    answer: CollectedAnswer,
    status: Status,
    error: ServeAppError | None = None,
) -> dict[str, Any]:
    """The Response object, to be encoded with `document`."""
    ended = status not in (Status.QUEUED, Status.IN_PROGRESS)
    sampling = request.sampling
    return {
        "id": record.id,
        "object": "response",
        "created_at": record.created_at,
        "status": status,
        "background": record.background,
        "error": _error(error) if status is Status.FAILED else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status is Status.INCOMPLETE else None,
        "instructions": _instructions(record, request),
        "max_output_tokens": sampling.max_tokens,
        "metadata": record.metadata,
        "model": request.model,
        "output": [output_item(record, item_status(status), answer.first.text)] if answer.begun else [],
        "parallel_tool_calls": record.parallel_tool_calls,
        "previous_response_id": record.previous_response_id,
        "temperature": sampling.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "usage": _usage(answer) if ended and answer.accepted else None,
        "user": record.user,
    }


def document(value: Any) -> bytes:
    """`value` as JSON that fits in one line of an event stream."""
    return escape_line_breaks(_encode(value))


def item_status(status: Status) -> str:
    """The status of the output item of a response of that status."""
    if status is Status.COMPLETED:
        return "completed"
    return "in_progress" if status in (Status.QUEUED, Status.IN_PROGRESS) else "incomplete"


def output_item(record: ResponseRecord, status: str, text: str | None) -> dict[str, Any]:
    """The output message; without any part when `text` is None."""
    return {
        "id": record.message_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [] if text is None else [text_part(text)],
    }


def text_part(text: str) -> dict[str, Any]:
    """One part of an output message."""
    return {"type": "output_text", "text": msgspec.Raw(json_string(text)), "annotations": [], "logprobs": []}


def conversation_after(record: ResponseRecord, answer: KeptState) -> tuple[dict[str, Any], ...]:
    """The messages of a response and its output, for the next one to follow; instructions are not carried over."""
    messages = _input_messages(record, answer.request)
    text = CollectedAnswer(events=answer.events).first.text
    return (*messages, {"role": "assistant", "content": text}) if text else messages


def input_items(record: ResponseRecord, request: GenerationRequest) -> list[dict[str, Any]]:
    """The input of a response as items, those of earlier responses included, the oldest first."""
    items: list[dict[str, Any]] = []
    for number, message in enumerate(_input_messages(record, request)):
        role, text = message["role"], str(message["content"])
        spoken = role == "assistant"
        items.append(
            {
                "id": f"{record.message_id}_{number}",
                "type": "message",
                "status": "completed",
                "role": role,
                "content": [text_part(text) if spoken else {"type": "input_text", "text": text}],
            }
        )
    return items


def _input_messages(record: ResponseRecord, request: GenerationRequest) -> tuple[dict[str, Any], ...]:
    return (request.prompt.messages or ())[1 if record.instructed else 0 :]


def _instructions(record: ResponseRecord, request: GenerationRequest) -> str | None:
    messages = request.prompt.messages
    return str(messages[0]["content"]) if record.instructed and messages else None


def _usage(answer: CollectedAnswer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _error(error: ServeAppError | None) -> dict[str, Any]:
    """OpenAI's `code` is a short list of its own; ours stands in `type`."""
    if error is None:
        return {"code": "server_error", "message": "The stream ended before the answer did."}
    if isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    else:
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
    return {"code": code, "message": error.message, "type": error.code}
