"""The error body that OpenAI's clients understand: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import msgspec

from serve_app.core.error_codes import ErrorCode
from serve_app.core.errors import InvalidRequest, ServeAppError

_encode = msgspec.json.Encoder().encode


def error_document(status: int, message: str, param: str | None = None, code: ErrorCode | None = None) -> bytes:
    """The body of an error response with HTTP status `status`; OpenAI's `error.type` follows from the status."""
    return _encode({"error": {"message": message, "type": _type(status), "param": param, "code": code}})


def document_of(error: ServeAppError) -> bytes:
    """The body for one of our own errors."""
    if not isinstance(error, InvalidRequest):
        return error_document(error.status, error.message, None, error.code)
    return error_document(error.status, error.message, error.param, error.error_code or error.code)


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
