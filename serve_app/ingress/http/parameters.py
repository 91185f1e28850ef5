"""Parameters of requests as OpenAPI describes them, and those that many routes share."""

from __future__ import annotations

from typing import Any

from serve_app.core.request import Priority
from serve_app.ingress.request_context import MAX_DEADLINE_MS

Parameter = dict[str, Any]


def header(name: str, description: str, schema: dict[str, Any]) -> Parameter:
    """An optional header."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def query(name: str, description: str, schema: dict[str, Any], required: bool = False) -> Parameter:
    """A parameter behind the `?`."""
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def in_path(name: str, description: str) -> Parameter:
    """A part of the path."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


REQUEST_ID = header(
    "X-Request-ID",
    "The request's id in logs and in the answer: 1 to 128 of `A-Z a-z 0-9 . _ : / @ + = -`. Anything else is replaced.",
    {"type": "string"},
)
PRIORITY = header(
    "X-Priority", "How urgent the request is.", {"type": "string", "enum": [each.value for each in Priority]}
)
DEADLINE = header(
    "X-Deadline-Ms",
    "Milliseconds from now after which the answer is of no use: 504 when they have passed.",
    {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
)
WAIT = header(
    "Prefer",
    "`wait=SECONDS`: a stream's headers wait no longer than this for the first token.",
    {"type": "string", "examples": ["wait=1"]},
)
STREAM_RESUME = header(
    "X-Stream-Resume",
    "`true`: the stream outlives its connection, and can be resumed. See docs/streaming.md.",
    {"type": "string", "enum": ["true", "false", "1", "0"]},
)
LAST_EVENT_ID = header("Last-Event-ID", "Go on after this event.", {"type": "string"})
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "A repeated request with the same key gets the same answer.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
)
URGENCY = (PRIORITY, DEADLINE)
