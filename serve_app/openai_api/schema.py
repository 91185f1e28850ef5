"""The request bodies of `/v1/chat/completions` and `/v1/completions`: types, ranges and defaults.

Types are strict, as OpenAI's are: a number in quotes is an error. Null means "not given" for every optional field.
Ranges are those of OpenAI's reference and, for the sampling extensions, of vLLM's `SamplingParams`.

Every list is bounded and fails at its first error: a validator that collects all errors of a long list takes seconds
and gigabytes for a message that shows one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from serve_app.core.cut_text import cut
from serve_app.core.error_codes import ErrorCode
from serve_app.core.request import RESERVED_TEMPLATE_ARGUMENTS

_INT64_MAX = 2**63 - 1
MAX_MESSAGES = 4096
MAX_PARTS = 1024
"""Parts in the content of one message."""
MAX_PROMPTS = 4096
"""Prompts in one request, whatever the configuration allows."""
MAX_TEMPLATE_ARGUMENTS = 64
MAX_STOP_STRINGS = 64
MAX_STOP_TOKEN_IDS = 1024
MAX_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
StopString = Annotated[str, Field(min_length=1, max_length=4096)]


def wrong(kind: ErrorCode, param: str, reason: str) -> PydanticCustomError:
    """An error of field `param` of the model being validated; `kind` is OpenAI's `error.code`."""
    return PydanticCustomError(kind, "{reason}", {"param": param, "reason": reason})


def at_most(pairs: int) -> BeforeValidator:
    """Refuses an object of more pairs before they are looked at: there is no `fail_fast` for objects."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > pairs:
            raise PydanticCustomError("invalid_value", f"Object should have at most {pairs} properties")
        return value

    return BeforeValidator(check)


class Wire(BaseModel):
    """Base of every model here: strict types, no unknown fields, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_no_unknown_field(cls, value: Any) -> Any:
        """Refuse the first one; pydantic itself would collect them all."""
        if isinstance(value, dict) and cls.model_config.get("extra") == "forbid":
            fields = cls.model_fields
            if not value.keys() <= fields.keys():
                name = next(name for name in value if name not in fields)
                raise wrong("unknown_parameter", name, "it is unknown")
        return value


class StreamOptions(Wire):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and ignored: padding against traffic analysis, which we do not add."""
    continuous_usage_stats: bool | None = None
    """vLLM's: the usage so far is in each chunk. Means nothing without `include_usage`."""


class TextPart(Wire):
    """One part of a message's content; only text is served, so parts of other types need not be understood."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> TextPart:
        if self.type != "text":
            raise wrong("unsupported_value", "type", f"content parts of type '{cut(self.type)}' are not supported")
        if self.text is None:
            raise wrong("missing_required_parameter", "text", "a text part needs it")
        return self


def one_or_many(value: Any) -> str | None:
    """Names the branch of a union of a string and a list."""
    if isinstance(value, str):
        return "<one>"
    return "<many>" if isinstance(value, list) else None


class Message(Wire):
    """One chat message. The fields of an answer that a client sends back are accepted where they are empty."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        Annotated[
            Annotated[str, Tag("<one>")]
            | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<many>")],
            Discriminator(
                one_or_many,
                custom_error_type="invalid_type",
                custom_error_message="Input should be a string or a list of content parts",
            ),
        ]
        | None
    ) = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None

    @model_validator(mode="after")
    def _is_text_chat(self) -> Message:
        if self.role in ("tool", "function"):
            raise wrong("unsupported_value", "role", f"messages of role '{self.role}' are not supported")
        for name in ("audio", "tool_calls", "tool_call_id", "function_call"):
            if getattr(self, name):
                raise wrong("unsupported_parameter", name, "it is not supported")
        if self.content is None and self.role != "assistant":
            raise wrong("missing_required_parameter", "content", f"a message of role '{self.role}' needs it")
        return self


class GenerationFields(Wire):
    """What both endpoints share."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_INT64_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_INT64_MAX - 1, le=_INT64_MAX)] | None = None
    stop: (
        Annotated[
            Annotated[StopString, Tag("<one>")]
            | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True), Tag("<many>")],
            Discriminator(
                one_or_many,
                custom_error_type="invalid_type",
                custom_error_message="Input should be a string or a list of strings",
            ),
        ]
        | None
    ) = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationFields:
        if self.stream_options is not None and not self.stream:
            raise wrong("invalid_value", "stream_options", "it is only allowed when 'stream' is true")
        return self


class ChatCompletionRequest(GenerationFields):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_TEMPLATE_ARGUMENTS)] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise wrong("invalid_value", "top_logprobs", "it is only allowed when 'logprobs' is true")
        if self.continue_final_message and self.add_generation_prompt:
            raise wrong("invalid_value", "add_generation_prompt", "'continue_final_message' excludes it")
        for name, value in (self.chat_template_kwargs or {}).items():
            if name in RESERVED_TEMPLATE_ARGUMENTS:
                raise wrong("invalid_value", f"chat_template_kwargs.{name}", "it may not be set")
            if not isinstance(value, str | int | float | None):
                reason = "input should be a string, a number, a boolean or null"
                raise wrong("invalid_type", f"chat_template_kwargs.{name}", reason)
        return self


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else None
    if isinstance(first, str):
        return "<texts>"
    return "<token lists>" if isinstance(first, list) else "<tokens>"


class CompletionRequest(GenerationFields):
    """Body of `POST /v1/completions`."""

    prompt: Annotated[
        Annotated[str, Tag("<text>")]
        | Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("<texts>")]
        | Annotated[TokenIds, Tag("<tokens>")]
        | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("<token lists>")],
        Discriminator(
            _prompt_kind,
            custom_error_type="invalid_type",
            custom_error_message="Input should be a string, a list of strings, of token ids or of lists of token ids",
        ),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
