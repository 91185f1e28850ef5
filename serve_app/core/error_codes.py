"""Every `error.code` that clients can meet, by any protocol; `docs/http_api.md` says when.

A type of literals and not an enumeration: codes are written where errors are raised and cross processes as plain text,
and the type checker refuses one that is not listed here.
"""

from __future__ import annotations

from typing import Literal, TypeGuard, get_args

ErrorCode = Literal[
    "channel_lost",
    "client_too_slow",
    "context_length_exceeded",
    "deadline_exceeded",
    "deadline_unattainable",
    "engine_error",
    "engine_failed",
    "engine_full",
    "engine_lost",
    "id_in_use",
    "internal_error",
    "invalid_api_key",
    "invalid_content_type",
    "invalid_json",
    "invalid_type",
    "invalid_value",
    "method_not_allowed",
    "missing_required_parameter",
    "model_not_found",
    "no_engine_available",
    "not_continuable",
    "origin_not_allowed",
    "payload_too_large",
    "previous_response_not_found",
    "queue_full",
    "refused",
    "rejected",
    "replica_leaving",
    "request_timeout",
    "response_not_found",
    "router_busy",
    "stream_cancelled",
    "stream_conflict",
    "stream_not_found",
    "stream_stalled",
    "stream_taken_over",
    "unknown_parameter",
    "unknown_url",
    "unsupported_content_encoding",
    "unsupported_parameter",
    "unsupported_value",
    "wrong_replica",
]

ERROR_CODES: frozenset[str] = frozenset(get_args(ErrorCode))


def is_error_code(text: str) -> TypeGuard[ErrorCode]:
    """Whether `text` is one of them."""
    return text in ERROR_CODES
