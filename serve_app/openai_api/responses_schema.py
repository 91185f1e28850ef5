"""The request body of `/v1/responses`: types, ranges and defaults.

Strict as in `schema.py`. See https://platform.openai.com/docs/api-reference/responses/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from serve_app.core.cut_text import cut
from serve_app.openai_api.schema import MAX_MESSAGES, MAX_PARTS, StreamOptions, Wire, at_most, one_or_many, wrong

_INT64_MAX = 2**63 - 1
MAX_METADATA_PAIRS = 16
_MetadataKey = Annotated[str, Field(max_length=64)]
_MetadataValue = Annotated[str, Field(max_length=512)]

HINTS = frozenset(
    {
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
    }
)
"""Bookkeeping and hints: the answer is a right answer whether or not they are obeyed."""

NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "access_programs": ({},),
    "background_options": ({}, {"completion_window": "soonest"}),
    "context_management": ([],),
    "conversation": (),
    "image": ({},),
    "include": ([],),
    "moderation": (),
    "prompt": (),
    "reasoning": ({}, {"effort": None}, {"effort": "none"}, {"effort": None, "summary": None}),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Parameters that change the answer and that we cannot obey, with the values (besides null) that ask for nothing."""

_TEXT_PARTS = ("input_text", "output_text")


class InputPart(Wire):
    """One part of a message's content; only text is served, so parts of other types need not be understood."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> InputPart:
        if self.type not in _TEXT_PARTS:
            raise wrong("unsupported_value", "type", f"content parts of type '{cut(self.type)}' are not supported")
        if self.text is None:
            raise wrong("missing_required_parameter", "text", "a text part needs it")
        return self


class InputMessage(Wire):
    """A message of the conversation; those of an earlier answer's `output` may be sent back as they came."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[str, Tag("<one>")]
        | Annotated[list[InputPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<many>")],
        Discriminator(
            one_or_many,
            custom_error_type="invalid_type",
            custom_error_message="Input should be a string or a list of content parts",
        ),
    ]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_message(cls, value: Any) -> Any:
        kind = value.get("type", "message") if isinstance(value, dict) else "message"
        if not isinstance(kind, str):
            raise wrong("invalid_type", "type", "input should be a string")
        if kind != "message":
            raise wrong("unsupported_value", "type", f"items of type '{cut(kind)}' are not supported")
        return value


class TextFormat(Wire):
    """The form of the answer: plain text only."""

    model_config = ConfigDict(extra="ignore")

    type: str

    @model_validator(mode="after")
    def _is_plain(self) -> TextFormat:
        if self.type != "text":
            raise wrong("unsupported_value", "type", f"the format '{cut(self.type)}' is not supported")
        return self


class TextOptions(Wire):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """A hint, ignored."""


class ResponseRequest(Wire):
    """Body of `POST /v1/responses`."""

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[
        Annotated[str, Tag("<one>")]
        | Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("<many>")],
        Discriminator(
            one_or_many,
            custom_error_type="invalid_type",
            custom_error_message="Input should be a string or a list of messages",
        ),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Annotated[dict[_MetadataKey, _MetadataValue], at_most(MAX_METADATA_PAIRS)] | None = None
    previous_response_id: Annotated[str, Field(max_length=256)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    seed: Annotated[int, Field(ge=-_INT64_MAX - 1, le=_INT64_MAX)] | None = None
    """Not OpenAI's, as the next: as in chat requests."""
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ResponseRequest:
        if self.stream_options is not None and not self.stream:
            raise wrong("invalid_value", "stream_options", "it is only allowed when 'stream' is true")
        if self.background and self.store is False:
            raise wrong("invalid_value", "background", "it needs 'store' to be true")
        return self
