"""How a request ended: every request has exactly one outcome, which is also its metric label."""

from __future__ import annotations

import enum


class RequestOutcome(enum.StrEnum):
    """The one way in which a request ended, as the client saw it."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    """The client went away or cancelled; the generation was aborted."""
    INVALID = "invalid"
    """The request itself was wrong (4xx other than 429)."""
    QUEUE_FULL = "queue_full"
    """Refused at once, or after waiting for a place, because the waiting queue was full."""
    DEADLINE_UNATTAINABLE = "deadline_unattainable"
    """Refused at once, because it would have been served too late."""
    NO_ENGINE = "no_engine"
    """No engine replica could serve it within the bound."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """Its deadline passed while it waited or was answered."""
    ENGINE_FAILED = "engine_failed"
    """The engine or its channel was lost or raised."""
    STREAM_STALLED = "stream_stalled"
    """The engine stopped giving tokens, and no other replica took over."""
    NOT_CONTINUABLE = "not_continuable"
    """The engine was lost in the middle of an answer that no other replica can continue."""
    CLIENT_TOO_SLOW = "client_too_slow"
    """Cut because the client read slower than its buffer bound allows."""
    INTERNAL_ERROR = "internal_error"
