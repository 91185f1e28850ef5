"""What `/openapi.json` says of kept streams."""

from __future__ import annotations

from serve_app.ingress.http.operation import STREAM_ERRORS, Operation
from serve_app.ingress.http.parameters import IDEMPOTENCY_KEY, LAST_EVENT_ID, in_path, query
from serve_app.ingress.http.rate_limit_headers import RATE_LIMIT_HEADERS
from serve_app.openai_api.answer_schema import ChatCompletionChunk, CompletionChunk, ErrorBody, StreamState

_STREAM_ID = in_path("stream_id", "The header `x-stream-id` of the answer that began the stream.")

READ_STREAM = Operation(
    "readStream",
    "Streams",
    "Go on reading a stream",
    parameters=(
        _STREAM_ID,
        query("offset", "Tokens that the client has.", {"type": "integer", "minimum": 0, "default": 0}),
        LAST_EVENT_ID,
    ),
    events=(ChatCompletionChunk, CompletionChunk, ErrorBody),
    ends_with_done=True,
    headers={**RATE_LIMIT_HEADERS, "x-stream-id": "The stream's id."},
    errors=STREAM_ERRORS,
)
CANCEL_STREAM = Operation(
    "cancelStream",
    "Streams",
    "End a stream",
    parameters=(_STREAM_ID,),
    answer=StreamState,
    errors=STREAM_ERRORS,
)
CANCEL_STREAM_BY_KEY = Operation(
    "cancelStreamByKey",
    "Streams",
    "End the stream of an idempotency key",
    parameters=(IDEMPOTENCY_KEY | {"required": True},),
    answer=StreamState,
    errors=STREAM_ERRORS,
)
