"""What clients send to `/v1/ws/chat` and `/ws/chat`, checked; docs/websocket.md has the protocol."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec

from serve_app.core.cut_text import cut
from serve_app.core.error_codes import ErrorCode
from serve_app.core.errors import InvalidRequest, PayloadTooLarge
from serve_app.core.request import Priority
from serve_app.ingress.request_context import MAX_DEADLINE_MS
from serve_app.ingress.resume.stream_id import NAME
from serve_app.openai_api.json_bounds import check_values

ClientId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""The client's own name for one of its requests, unique among those open on its socket."""


class _ClientMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Tells its kind by `type`; null means "not given"."""


class StartRequest(_ClientMessage, frozen=True, tag="request"):
    """Asks for an answer; `body` is that of `POST /v1/chat/completions`, as it came."""

    id: ClientId
    body: msgspec.Raw
    resume: bool | None = None
    idempotency_key: Annotated[str, msgspec.Meta(pattern=rf"^{NAME.pattern}\Z")] | None = None
    priority: Priority | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEADLINE_MS)] | None = None


class ResumeRequest(_ClientMessage, frozen=True, tag="resume"):
    """Asks for the rest of a kept stream after `position` tokens; without `stream_id`, `id` names it."""

    id: ClientId
    stream_id: str | None = None
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None


class CancelRequest(_ClientMessage, frozen=True, tag="cancel"):
    """Ends an open request and its generation."""

    id: ClientId


class Ping(_ClientMessage, frozen=True, tag="ping"):
    """Asks for a `pong`, with the same id if it has one."""

    id: ClientId | None = None


class Authenticate(_ClientMessage, frozen=True, tag="auth"):
    """The bearer token, from clients that cannot send headers; before anything is asked."""

    token: Annotated[str, msgspec.Meta(min_length=1)]


ClientMessage = StartRequest | ResumeRequest | CancelRequest | Ping | Authenticate


class PlainPrompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of what clients of `/ws/chat` say."""

    prompt: str
    max_tokens: int | None = None
    model: str | None = None
    id: ClientId | None = None


class _Named(msgspec.Struct):
    id: ClientId


_KINDS = ", ".join(f"'{kind.__struct_config__.tag}'" for kind in ClientMessage.__args__)
_messages: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_prompts = msgspec.json.Decoder(PlainPrompt)
_names = msgspec.json.Decoder(_Named)

_at = re.compile(r" - at `\$\.?(?P<path>.*)`$").search
_field = re.compile(r"^Object (?P<problem>missing required|contains unknown) field `(?P<name>.*)`$").match


def parse_message(text: str) -> ClientMessage:
    """One message to `/v1/ws/chat`. Raises `InvalidRequest` naming the field, `PayloadTooLarge` for too many values."""
    return _parsed(_messages, text)


def parse_prompt(text: str) -> PlainPrompt:
    """One message to `/ws/chat`. Raises `InvalidRequest` naming the field."""
    return _parsed(_prompts, text)


def id_of(text: str) -> str | None:
    """The request that a malformed message is about, as far as that can be told."""
    try:
        check_values(text.encode())
        return _names.decode(text).id
    except (PayloadTooLarge, msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


T = TypeVar("T")


def _parsed(decoder: msgspec.json.Decoder[T], text: str) -> T:
    try:
        check_values(text.encode())
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise InvalidRequest("The message is nested too deeply.", None, "invalid_json") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The message is not valid JSON ({error}).", None, "invalid_json") from None
    except UnicodeEncodeError:
        raise InvalidRequest("The message is not valid Unicode.", None, "invalid_json") from None


def _invalid(problem: str) -> InvalidRequest:
    """What msgspec found, in the words of the HTTP API, and without the value that was sent."""
    where = _at(problem)
    path = where["path"] if where else ""
    reason = problem[: where.start()] if where else problem
    if field := _field(reason):
        path = f"{path}.{field['name']}" if path else field["name"]
        if field["problem"] == "missing required":
            return InvalidRequest(f"Missing required field: '{path}'.", path, "missing_required_parameter")
        return InvalidRequest(f"Unknown field: '{cut(path)}'.", cut(path), "unknown_parameter")
    if path == "type":
        return InvalidRequest(f"Invalid value for 'type': it must be one of {_KINDS}.", path, "invalid_value")
    if not path:
        return InvalidRequest("The message must be a JSON object.", None, "invalid_type")
    if path == "idempotency_key" and "matching regex" in reason:
        reason = "it must be 1 to 255 printable ASCII characters"
    if path == "priority":
        reason = f"it must be one of {', '.join(Priority)}"
    reason = reason.replace("`", "'")
    code: ErrorCode = "invalid_type" if " got " in reason else "invalid_value"
    return InvalidRequest(f"Invalid value for '{path}': {reason[:1].lower()}{reason[1:]}.", path, code)
