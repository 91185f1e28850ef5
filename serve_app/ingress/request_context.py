"""What a request's headers say of it: its id, and how urgent it is."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from starlette.datastructures import Headers

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Priority

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/@+=-]{1,128}")
MAX_DEADLINE_S = 7 * 24 * 3600
"""Longest deadline of a request."""
MAX_DEADLINE_MS = MAX_DEADLINE_S * 1000


@dataclass(frozen=True, slots=True)
class Urgency:
    """How urgently an answer is wanted, and until when."""

    priority: Priority
    timeout_s: float | None
    """Seconds until the deadline; None without one."""


def request_id_of(headers: Headers) -> str:
    """The caller's `x-request-id` if it is fit for logs (1 to 128 plain characters), else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def urgency_of(headers: Headers) -> Urgency:
    """Read `X-Priority` and `X-Deadline-Ms`. Raises `InvalidRequest` naming the header."""
    return Urgency(_priority(headers.get("x-priority")), _timeout_s(headers.get("x-deadline-ms")))


def _priority(value: str | None) -> Priority:
    if value is None:
        return Priority.DEFAULT
    try:
        return Priority(value.strip().lower())
    except ValueError:
        allowed = ", ".join(Priority)
        message = f"Invalid value for the header 'X-Priority': it must be one of {allowed}."
        raise InvalidRequest(message, "X-Priority", "invalid_value") from None


def _timeout_s(value: str | None) -> float | None:
    if value is None:
        return None
    text = value.strip()
    # Digits only: `int` would also take signs, underscores and other scripts' digits.
    milliseconds = int(text) if re.fullmatch(r"[0-9]{1,12}", text) else 0
    if not 1 <= milliseconds <= MAX_DEADLINE_MS:
        message = f"Invalid value for the header 'X-Deadline-Ms': it must be 1 to {MAX_DEADLINE_MS} milliseconds."
        raise InvalidRequest(message, "X-Deadline-Ms", "invalid_value")
    return milliseconds / 1000
