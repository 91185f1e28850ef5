"""From an error to the HTTP answer that says it: status, retry headers and OpenAI's error body."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serve_app.core.cut_text import cut
from serve_app.core.errors import InternalError, NotAuthenticated, ServeAppError
from serve_app.ingress.error_mapping import retry_after_ms
from serve_app.ingress.http.context import ApiContext
from serve_app.openai_api.errors import document_of, error_document

logger = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST = 499
REPEATED_BY_SDKS = (408, 409)
"""Statuses below 429 that OpenAI's SDKs send again unless they are told not to."""
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
"""A 401 must name a way to authenticate (RFC 9110, section 15.5.2)."""


@dataclass(frozen=True, slots=True)
class ErrorAnswers:
    """Answers every error that is raised before a response begins: those of a response itself are its own."""

    context: ApiContext

    def __call__(self, request: Request, error: Exception) -> Response:
        """Any error outside a generation in OpenAI's shape."""
        headers = self.context.reply_headers(request)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        if isinstance(error, HTTPException):
            return _http_exception_response(error, request.method, request.url.path, headers)
        if not isinstance(error, ServeAppError):
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
            error = InternalError("The server had an internal error.")
        return error_response(error, headers)


def error_response(error: ServeAppError, headers: Mapping[str, str]) -> Response:
    """The response for one of our own errors; `headers` are added to those that the error itself calls for."""
    challenge = _CHALLENGE if isinstance(error, NotAuthenticated) else {}
    return _json(document_of(error), error.status, {**headers, **challenge, **_retry_headers(error)})


def _http_exception_response(error: HTTPException, method: str, path: str, headers: Mapping[str, str]) -> Response:
    """The response for what the web framework refuses: an unknown path, a wrong method."""
    if error.status_code == 404:
        document = error_document(404, f"Unknown path: {method} {cut(path)}.", None, "unknown_url")
    elif error.status_code == 405:
        document = error_document(405, f"{cut(path)} does not take {method}.", None, "method_not_allowed")
    else:
        document = error_document(error.status_code, str(error.detail))
    return _json(document, error.status_code, {**headers, **(error.headers or {})})


def _retry_headers(error: ServeAppError) -> dict[str, str]:
    """OpenAI's SDKs obey `x-should-retry` and prefer `retry-after-ms`; everyone else reads `Retry-After`."""
    if error.status < 429 and error.status not in REPEATED_BY_SDKS:
        return {}
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    wait_ms = retry_after_ms(error)
    if wait_ms is not None:
        headers["Retry-After"] = str(math.ceil(wait_ms / 1000))
        headers["retry-after-ms"] = str(wait_ms)
    return headers


def _json(document: bytes, status: int, headers: Mapping[str, str]) -> Response:
    return Response(document, status, headers, "application/json")
