"""From the messages of a gRPC client to the project's own words, or an `InvalidRequest` that names the field.

What `POST /v1/chat/completions` allows is allowed here, and nothing else: the same parser decides.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import orjson

from serve_app.core.errors import InvalidRequest, PayloadTooLarge, ServeAppError
from serve_app.core.request import Priority
from serve_app.ingress.error_mapping import with_param
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.request_context import MAX_DEADLINE_MS
from serve_app.ingress.resume.stream_id import NAME
from serve_app.openai_api.parse import Endpoint, ParsedRequest, parse_chat
from serve_app.openai_api.schema import MAX_MESSAGES, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS

_MAX_ID_BYTES = 128
_SAMPLING = {field.name for field in Sampling.DESCRIPTOR.fields}


def parse_generation(message: ChatRequest | LLMRequest, default_model: str, max_bytes: int) -> ParsedRequest:
    """What `message` asks to generate, by `default_model` if it names none. Raises `InvalidRequest`."""
    if message.ByteSize() > max_bytes:
        raise PayloadTooLarge(f"The request is larger than {max_bytes} bytes.")
    try:
        return parse_chat(orjson.dumps(_document(message, default_model)))
    except InvalidRequest as error:
        raise in_message(error, message) from None


def check_counts(message: ChatRequest | LLMRequest) -> None:
    """Raise `InvalidRequest` for lists that are too long to be looked at: an empty message takes two bytes."""
    sampling = message.sampling
    for field, count, most in (
        ("messages", len(message.messages), MAX_MESSAGES),
        ("sampling.stop", len(sampling.stop), MAX_STOP_STRINGS),
        ("sampling.stop_token_ids", len(sampling.stop_token_ids), MAX_STOP_TOKEN_IDS),
    ):
        if count > most:
            raise _wrong(field, f"there may be at most {most}")


def check_envelope(message: ChatRequest) -> None:
    """Check what is not about the answer itself. Raises `InvalidRequest`."""
    if len(message.id.encode()) > _MAX_ID_BYTES:
        raise _wrong("id", f"it may have at most {_MAX_ID_BYTES} bytes")
    if message.position < 0:
        raise _wrong("position", "it may not be negative")
    if message.idempotency_key and not NAME.fullmatch(message.idempotency_key):
        raise _wrong("idempotency_key", "it must be 1 to 255 printable ASCII characters")
    if message.position and not message.stream_id:
        raise _wrong("position", "it needs 'stream_id'")


def priority_of(message: ChatRequest, default: Priority) -> Priority:
    """The priority that `message` asks for. Raises `InvalidRequest`."""
    if not message.priority:
        return default
    try:
        return Priority(message.priority.strip().lower())
    except ValueError:
        raise _wrong("priority", f"it must be one of {', '.join(Priority)}") from None


def timeout_of(message: ChatRequest, default_s: float | None) -> float | None:
    """Seconds until the deadline that `message` sets. Raises `InvalidRequest`."""
    if not message.deadline_ms:
        return default_s
    if not 1 <= message.deadline_ms <= MAX_DEADLINE_MS:
        raise _wrong("deadline_ms", f"it must be 1 to {MAX_DEADLINE_MS} milliseconds")
    return message.deadline_ms / 1000


def fingerprint_of(message: ChatRequest) -> str:
    """Tells requests apart by what they ask to generate."""
    asked = ChatRequest(
        prompt=message.prompt, max_tokens=message.max_tokens, model=message.model, messages=message.messages
    )
    if message.HasField("sampling"):
        asked.sampling.CopyFrom(message.sampling)
    return hashlib.sha256(b"ChatService\n" + asked.SerializeToString(deterministic=True)).hexdigest()[:32]


def in_message(error: ServeAppError, message: ChatRequest | LLMRequest) -> ServeAppError:
    """`error` with the field at fault as `message` has it."""
    error = with_param(error, Endpoint.CHAT)
    if not isinstance(error, InvalidRequest) or error.param is None:
        return error
    param, _, _ = error.param.partition(".")
    if param in _SAMPLING:
        renamed = f"sampling.{error.param}"
    elif param == "offset":
        renamed = "position"
    elif error.param.startswith(f"messages.{len(message.messages)}") or (param == "messages" and not message.messages):
        renamed = "prompt"
    else:
        return error
    return type(error)(error.message.replace(f"'{error.param}'", f"'{renamed}'"), renamed, error.error_code)


def _document(message: ChatRequest | LLMRequest, default_model: str) -> dict[str, Any]:
    """The body that asks the same over HTTP. In proto3 a field that is not `optional` is not given when it is 0."""
    messages = [
        {"role": each.role, "content": each.content, **({"name": each.name} if each.name else {})}
        for each in message.messages
    ]
    if message.prompt:
        messages.append({"role": "user", "content": message.prompt})
    if not messages:
        raise InvalidRequest("Missing required field: 'prompt'.", "prompt", "missing_required_parameter")
    document: dict[str, Any] = {"model": message.model or default_model, "messages": messages}
    if message.max_tokens:
        document["max_tokens"] = message.max_tokens
    for field, value in message.sampling.ListFields():
        document[field.name] = list(value) if field.name in ("stop", "stop_token_ids") else value
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
            raise _wrong(f"sampling.{field.name}", "it must be a finite number")
    return document


def _wrong(field: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{field}': {reason}.", field, "invalid_value")
