from __future__ import annotations

import json

import pytest

from serve_app.core.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    ServeAppError,
)
from serve_app.openai_api.errors import document_of


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            InvalidRequest("m", "f", "invalid_type"),
            {"type": "invalid_request_error", "param": "f", "code": "invalid_type"},
        ),
        (ModelNotFound("m", "model"), {"type": "invalid_request_error", "param": "model", "code": "model_not_found"}),
        (
            ContextLengthExceeded("m"),
            {"type": "invalid_request_error", "param": None, "code": "context_length_exceeded"},
        ),
        (QueueFull("m", 3.0), {"type": "rate_limit_error", "param": None, "code": "queue_full"}),
        (DeadlineExceeded("m"), {"type": "server_error", "param": None, "code": "deadline_exceeded"}),
        (EngineFailed("m"), {"type": "server_error", "param": None, "code": "engine_failed"}),
    ],
)
def test_an_error_becomes_openais_body(error: ServeAppError, expected: dict[str, str | None]) -> None:
    assert json.loads(document_of(error)) == {"error": {"message": "m", **expected}}
