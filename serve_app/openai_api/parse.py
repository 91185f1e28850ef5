"""From a request body in bytes to the project's own words, or an `InvalidRequest` that names the field."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Prompt, Sampling
from serve_app.openai_api.json_bounds import check_values
from serve_app.openai_api.parameters import without_foreign_parameters
from serve_app.openai_api.schema import (
    DEFAULT_COMPLETION_TOKENS,
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
    Message,
)
from serve_app.openai_api.validation_errors import first_error


class Endpoint(enum.Enum):
    """The two endpoints that generate text; they differ in the shape of what comes back."""

    CHAT = "chat"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A valid request body. Each prompt becomes one generation of `sampling.n` choices."""

    endpoint: Endpoint
    model: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool
    continuous_usage: bool = False
    """Whether each chunk of a stream tells the usage so far."""

    @property
    def choices(self) -> int:
        """Choices in the answer, over all prompts."""
        return len(self.prompts) * self.sampling.n


Body = TypeVar("Body", bound=GenerationFields)


def parse_chat(body: bytes) -> ParsedRequest:
    """Parse the body of `POST /v1/chat/completions`. Raises `InvalidRequest`."""
    fields = _validated(body, ChatCompletionRequest)
    max_tokens = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    continue_final = bool(fields.continue_final_message)
    add_generation_prompt = fields.add_generation_prompt
    prompt = Prompt(
        messages=tuple(_message(message) for message in fields.messages),
        add_generation_prompt=not continue_final if add_generation_prompt is None else add_generation_prompt,
        continue_final_message=continue_final,
        chat_template_kwargs=dict(fields.chat_template_kwargs or {}),
    )
    return _parsed(Endpoint.CHAT, fields, (prompt,), _sampling(fields, max_tokens, logprobs))


def parse_completion(body: bytes) -> ParsedRequest:
    """Parse the body of `POST /v1/completions`. Raises `InvalidRequest`."""
    fields = _validated(body, CompletionRequest)
    max_tokens = DEFAULT_COMPLETION_TOKENS if fields.max_tokens is None else fields.max_tokens
    return _parsed(Endpoint.COMPLETION, fields, _prompts(fields), _sampling(fields, max_tokens, fields.logprobs))


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request body. Raises `InvalidRequest`; `PayloadTooLarge` when it holds too many values."""
    check_values(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidRequest(f"The body is not valid JSON ({error.msg}, {where}).", None, "invalid_json") from None
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.", None, "invalid_type")
    return document


def _validated(body: bytes, model: type[Body]) -> Body:
    document = json_object(body)
    try:
        return model.model_validate(without_foreign_parameters(document, model.model_fields))
    except ValidationError as error:
        raise first_error(error) from None


def _sampling(fields: GenerationFields, max_tokens: int | None, logprobs: int | None) -> Sampling:
    min_tokens = fields.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' ({min_tokens}) exceeds the output limit ({max_tokens}).", "min_tokens", "invalid_value"
        )
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_given(fields.temperature, 1.0),
        top_p=_given(fields.top_p, 1.0),
        top_k=max(0, fields.top_k or 0),
        min_p=_given(fields.min_p, 0.0),
        seed=fields.seed,
        stop=stop,
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        n=fields.n or 1,
        presence_penalty=_given(fields.presence_penalty, 0.0),
        frequency_penalty=_given(fields.frequency_penalty, 0.0),
        repetition_penalty=_given(fields.repetition_penalty, 1.0),
        logprobs=logprobs,
        ignore_eos=bool(fields.ignore_eos),
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _message(message: Message) -> dict[str, Any]:
    """The message as a chat template takes it: text parts become one string, joined as vLLM joins them."""
    content = message.content
    if isinstance(content, list):
        content = "\n".join(part.text for part in content if part.text is not None)
    plain: dict[str, Any] = {"role": message.role, "content": content if content is not None else ""}
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _prompts(fields: CompletionRequest) -> tuple[Prompt, ...]:
    prompt = fields.prompt
    if isinstance(prompt, str):
        return (Prompt(text=prompt),)
    prompts: list[Prompt] = []
    token_ids: list[int] = []
    for item in prompt:
        if isinstance(item, str):
            prompts.append(Prompt(text=item))
        elif isinstance(item, list):
            prompts.append(Prompt(token_ids=tuple(item)))
        else:
            token_ids.append(item)
    if token_ids:
        prompts.append(Prompt(token_ids=tuple(token_ids)))
    return tuple(prompts)


def _parsed(
    endpoint: Endpoint, fields: GenerationFields, prompts: tuple[Prompt, ...], sampling: Sampling
) -> ParsedRequest:
    options = fields.stream_options
    include_usage = options is not None and bool(options.include_usage)
    return ParsedRequest(
        endpoint=endpoint,
        model=fields.model,
        prompts=prompts,
        sampling=sampling,
        stream=bool(fields.stream),
        include_usage=include_usage,
        continuous_usage=include_usage and options is not None and bool(options.continuous_usage_stats),
    )
