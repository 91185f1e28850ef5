"""From what the server answered, or the connection did, to our errors: the one place that translates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from serve_app.client.errors import Overloaded, RequestRejected, ServerError, ServerFailed
from serve_app.core.errors import error_from_code

_TRY_AGAIN = frozenset({408, 425, 429})
_NO_ROOM = frozenset({429, 503})


def error_of_response(status: int, headers: Mapping[str, str], body: bytes) -> ServerError:
    """The error that an HTTP response with a status other than 200 stands for. Names in `headers` are lower case."""
    message, code, param = _document(body)
    told = headers.get("x-should-retry")
    should_retry = told == "true" if told in ("true", "false") else status in _TRY_AGAIN or status >= 500
    error = _class_of(status)
    return error(message or f"HTTP status {status}", status, code, param, retry_after_s(headers), should_retry)


def error_of_event(data: str, retry_ms: int | None) -> ServerError:
    """The error that an `error` event in the middle of a stream stands for."""
    message, code, param = _document(data.encode())
    known = error_from_code(code or "", message)
    retry_after = None if retry_ms is None else retry_ms / 1000
    error = _class_of(known.status)
    return error(message or "the stream failed", known.status, code, param, retry_after, known.retryable)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the response asks to wait: `retry-after-ms` if it is there, or `Retry-After` in either form."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            value = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if 0 <= value < float("inf"):
            return value
    try:
        wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
        return max(wait.total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):
        return None


def _class_of(status: int) -> type[ServerError]:
    if status in _NO_ROOM:
        return Overloaded
    return ServerFailed if status >= 500 else RequestRejected


def _document(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and param of OpenAI's error body; of any other body, its first line and nothing."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"]), _text(error.get("code")), _text(error.get("param"))
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = body.decode("utf-8", "replace").strip().splitlines()
        return (lines[0][:200] if lines else ""), None, None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
