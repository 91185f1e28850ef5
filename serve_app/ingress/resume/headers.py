"""What a request's headers say about resuming: whether it wants to, where it stands, and by what name it repeats."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers

from serve_app.core.errors import InvalidRequest
from serve_app.ingress.resume.stream_id import NAME

RESUME = "x-stream-resume"
LAST_EVENT_ID = "last-event-id"
IDEMPOTENCY_KEY = "idempotency-key"
RETRY_COUNT = "x-retry-count"

_YES = ("true", "1")
_NO = ("false", "0", "")


@dataclass(frozen=True, slots=True)
class ResumeWish:
    """None and False stand for headers that were not sent."""

    resumable: bool
    last_event_id: str | None
    idempotency_key: str | None
    first_try: bool = False
    """The client says that it has not sent the request before, so that there is nothing to look for."""


def resume_wish(headers: Headers) -> ResumeWish | None:
    """What the headers ask for; None when it is nothing. Raises `InvalidRequest` naming the header."""
    if RESUME not in headers and LAST_EVENT_ID not in headers and IDEMPOTENCY_KEY not in headers:
        return None
    resumable = headers.get(RESUME, "").strip().lower()
    if resumable not in _YES + _NO:
        message = "Invalid value for the header 'X-Stream-Resume': it must be 'true' or 'false'."
        raise InvalidRequest(message, "X-Stream-Resume", "invalid_value")
    key = headers.get(IDEMPOTENCY_KEY)
    if key is not None and NAME.fullmatch(key) is None:
        message = "Invalid value for the header 'Idempotency-Key': it must be 1 to 255 printable ASCII characters."
        raise InvalidRequest(message, "Idempotency-Key", "invalid_value")
    last_event_id = headers.get(LAST_EVENT_ID) or None
    if resumable in _NO and last_event_id is None and key is None:
        return None
    return ResumeWish(resumable in _YES, last_event_id, key, headers.get(RETRY_COUNT) == "0")
