"""What the writers of this package write, as models for `/openapi.json`: chat, completions, models, errors.

Answers are written as bytes by hand (`sse.py`, `reply.py`), and never pass through these models. The tests validate
every answer of theirs against the document that is made of these models, so that the two stay the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from serve_app.core.error_codes import ErrorCode

FinishReasonName = Literal["stop", "length"]


class Document(BaseModel):
    """Base of every model of an answer: a field that is not listed is a defect."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Document):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    """Path of the field that is wrong, as `messages.0.content`."""
    code: ErrorCode | None


class ErrorBody(Document):
    """The body of every error, and the data of the `error` event of a stream."""

    error: ErrorDetail


class PromptTokensDetails(Document):
    """Prompt tokens by kind."""

    cached_tokens: int


class Usage(Document):
    """Token counts over all prompts and choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TokenAlternative(Document):
    """A token that might have been drawn."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TokenAlternative):
    """The token that was drawn, and the likeliest others."""

    top_logprobs: list[TokenAlternative]


class ChatLogprobs(Document):
    """Log-probabilities of a chat choice."""

    content: list[ChatTokenLogprob]
    refusal: None


class CompletionLogprobs(Document):
    """Log-probabilities of a completion choice, in columns."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class AssistantMessage(Document):
    """The answer's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Document):
    """One choice of a whole chat answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReasonName
    stop_reason: str | int | None


class ChatCompletion(Document):
    """A whole chat answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Document):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(Document):
    """One choice in a chunk of a chat answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReasonName | None
    stop_reason: str | int | None = None


class ChatCompletionChunk(Document):
    """One event of a streamed chat answer. With `include_usage` the last one has no choices, and the usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionChoice(Document):
    """One choice of a whole text completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReasonName
    stop_reason: str | int | None


class Completion(Document):
    """A whole text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(Document):
    """One choice in a chunk of a text completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReasonName | None
    stop_reason: str | int | None = None


class CompletionChunk(Document):
    """One event of a streamed text completion. With `include_usage` the last one has no choices, and the usage."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None


class TokenFrame(Document):
    """One event of `GET /stream`: one for each token, then one that says `done`."""

    token: str
    done: bool


class Model(Document):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None
    """Context window in tokens; null until an engine has reported it."""


class ModelList(Document):
    """The served models."""

    object: Literal["list"]
    data: list[Model]


class StreamState(Document):
    """What is known of a kept stream."""

    id: str
    object: Literal["stream"]
    status: Literal["running", "completed", "failed", "cancelled"]


class Health(Document):
    """The process is alive."""

    status: Literal["ok"]


class Readiness(Document):
    """Whether a request would be admitted now."""

    status: Literal["ready", "not ready"]
