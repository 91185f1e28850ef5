"""What `/openapi.json` says of chat, completions and prompts in the address."""

from __future__ import annotations

from serve_app.core.errors import OriginNotAllowed
from serve_app.ingress.http.operation import ALL_ERRORS, STREAM_ERRORS, Operation
from serve_app.ingress.http.parameters import (
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    STREAM_RESUME,
    URGENCY,
    WAIT,
    Parameter,
    query,
)
from serve_app.ingress.http.rate_limit_headers import RATE_LIMIT_HEADERS
from serve_app.openai_api.answer_schema import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    ErrorBody,
    TokenFrame,
)
from serve_app.openai_api.schema import ChatCompletionRequest, CompletionRequest

_HEADERS = {**RATE_LIMIT_HEADERS, "x-stream-id": "Id of a stream that can be resumed: of `/v1/streams/{stream_id}`."}
_GENERATING = (*URGENCY, WAIT, STREAM_RESUME, LAST_EVENT_ID, IDEMPOTENCY_KEY)
_MESSAGES = [{"role": "user", "content": "Name three rivers."}]

CHAT = Operation(
    "createChatCompletion",
    "Chat",
    "Answer a chat",
    body=ChatCompletionRequest,
    body_examples={
        "whole": {"model": "demo", "messages": _MESSAGES, "max_tokens": 64},
        "streamed": {"model": "demo", "messages": _MESSAGES, "max_tokens": 64, "stream": True},
    },
    parameters=_GENERATING,
    answer=ChatCompletion,
    events=(ChatCompletionChunk, ErrorBody),
    ends_with_done=True,
    headers=_HEADERS,
    errors=ALL_ERRORS,
)
COMPLETION = Operation(
    "createCompletion",
    "Completions",
    "Continue texts",
    body=CompletionRequest,
    body_examples={
        "whole": {"model": "demo", "prompt": "Once upon a time", "max_tokens": 64},
        "streamed": {"model": "demo", "prompt": "Once upon a time", "max_tokens": 64, "stream": True},
    },
    parameters=_GENERATING,
    answer=Completion,
    events=(CompletionChunk, ErrorBody),
    ends_with_done=True,
    headers=_HEADERS,
    errors=ALL_ERRORS,
)


def _prompt_parameters(max_tokens: int) -> tuple[Parameter, ...]:
    return (
        query("prompt", "What to answer.", {"type": "string", "minLength": 1}, required=True),
        query("model", "The first of the served models unless given.", {"type": "string"}),
        query("max_tokens", "Most tokens of the answer.", {"type": "integer", "minimum": 1, "default": max_tokens}),
        query("offset", "Tokens that the client has.", {"type": "integer", "minimum": 0, "default": 0}),
        LAST_EVENT_ID,
        *URGENCY,
        WAIT,
    )


def prompt_operation(name: str, tag: str, summary: str, max_tokens: int) -> Operation:
    """The operation of a GET that generates; `max_tokens` is its default."""
    return Operation(
        name,
        tag,
        summary,
        parameters=_prompt_parameters(max_tokens),
        events=(TokenFrame, ErrorBody),
        ends_with_done=True,
        headers=RATE_LIMIT_HEADERS,
        errors=(*STREAM_ERRORS, OriginNotAllowed),
    )
