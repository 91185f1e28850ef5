"""From an error to the HTTP answer that says it: status, retry headers and OpenAI's error body."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve_app.core.errors import ContextLengthExceeded, NotAuthenticated, Refused, ServeAppError
from serve_app.openai_api.errors import document_of, error_document
from serve_app.openai_api.parse import Endpoint

_PROMPT_FIELD = {Endpoint.CHAT: "messages", Endpoint.COMPLETION: "prompt"}
_MIN_RETRY_AFTER_S = 1.0
_MAX_RETRY_AFTER_S = 60.0
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
"""A 401 must name a way to authenticate (RFC 9110, section 15.5.2)."""


def error_response(error: ServeAppError, headers: Mapping[str, str]) -> Response:
    """The response for one of our own errors; `headers` are added to those that the error itself calls for."""
    challenge = _CHALLENGE if isinstance(error, NotAuthenticated) else {}
    return _json(document_of(error), error.status, {**headers, **challenge, **_retry_headers(error)})


def http_exception_response(error: HTTPException, method: str, path: str, headers: Mapping[str, str]) -> Response:
    """The response for what the web framework refuses: an unknown path, a wrong method."""
    if error.status_code == 404:
        document = error_document(404, f"Unknown path: {method} {path[:200]}.", None, "unknown_url")
    elif error.status_code == 405:
        document = error_document(405, f"{path[:200]} does not take {method}.", None, "method_not_allowed")
    else:
        document = error_document(error.status_code, str(error.detail))
    return _json(document, error.status_code, {**headers, **(error.headers or {})})


def with_param(error: ServeAppError, endpoint: Endpoint) -> ServeAppError:
    """Name the field of an overlong prompt: engines do not know which endpoint it came from."""
    if isinstance(error, ContextLengthExceeded) and error.param is None:
        return type(error)(error.message, _PROMPT_FIELD[endpoint])
    return error


def retry_after_ms(error: ServeAppError) -> int | None:
    """Milliseconds after which a refused client should come back, within 1 to 60 s; None when `error` does not say.

    The jitter is in it already: clients wait exactly as long as they are told.
    """
    if not isinstance(error, Refused):
        return None
    return math.ceil(min(max(error.retry_after_s, _MIN_RETRY_AFTER_S), _MAX_RETRY_AFTER_S) * 1000)


def _retry_headers(error: ServeAppError) -> dict[str, str]:
    """OpenAI's SDKs obey `x-should-retry` and prefer `retry-after-ms`; everyone else reads `Retry-After`."""
    if error.status < 429:
        return {}
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    wait_ms = retry_after_ms(error)
    if wait_ms is not None:
        headers["Retry-After"] = str(math.ceil(wait_ms / 1000))
        headers["retry-after-ms"] = str(wait_ms)
    return headers


def _json(document: bytes, status: int, headers: Mapping[str, str]) -> Response:
    return Response(document, status, headers, "application/json")
