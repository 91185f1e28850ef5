"""Errors as events and back: what an engine raises crosses the token channel as `Failed`."""

from __future__ import annotations

from serve_app.core.errors import InvalidRequest, Refused, ServeAppError, error_from_code
from serve_app.core.events import Failed


def failed_by(error: ServeAppError) -> Failed:
    """The event that tells of `error`."""
    param = error.param if isinstance(error, InvalidRequest) else None
    retry_after_s = error.retry_after_s if isinstance(error, Refused) else None
    return Failed(error.code, error.message, param, retry_after_s)


def error_of(failed: Failed) -> ServeAppError:
    """The error that `failed` tells of; an unknown code becomes `InternalError`."""
    return error_from_code(failed.code, failed.message, failed.param, failed.retry_after_s)
