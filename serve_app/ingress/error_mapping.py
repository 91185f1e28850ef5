"""What every protocol says of an error in the same words: the field of an overlong prompt, when to come back."""

from __future__ import annotations

import math

from serve_app.core.errors import ContextLengthExceeded, Refused, ServeAppError
from serve_app.core.retry_advice import bounded_s
from serve_app.openai_api.parse import Endpoint

_PROMPT_FIELD = {Endpoint.CHAT: "messages", Endpoint.COMPLETION: "prompt"}


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
    return math.ceil(bounded_s(error.retry_after_s) * 1000)
