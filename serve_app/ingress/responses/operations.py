"""What `/openapi.json` says of the Responses API."""

from __future__ import annotations

from serve_app.ingress.http.operation import ALL_ERRORS, STREAM_ERRORS, Operation
from serve_app.ingress.http.parameters import IDEMPOTENCY_KEY, URGENCY, in_path, query
from serve_app.ingress.http.rate_limit_headers import RATE_LIMIT_HEADERS
from serve_app.openai_api.responses_answer_schema import (
    RESPONSE_EVENTS,
    DeletedResponse,
    InputItemList,
    ResponseObject,
)
from serve_app.openai_api.responses_schema import ResponseRequest

_TAG = "Responses"
_RESPONSE_ID = in_path("response_id", "`id` of the response.")

CREATE = Operation(
    "createResponse",
    _TAG,
    "Create a response",
    body=ResponseRequest,
    body_examples={
        "whole": {"model": "demo", "input": "Name three rivers."},
        "streamed": {"model": "demo", "input": "Name three rivers.", "stream": True},
        "background": {"model": "demo", "input": "Name three rivers.", "background": True},
    },
    parameters=(*URGENCY, IDEMPOTENCY_KEY),
    answer=ResponseObject,
    events=RESPONSE_EVENTS,
    headers=RATE_LIMIT_HEADERS,
    errors=ALL_ERRORS,
)
RETRIEVE = Operation(
    "retrieveResponse",
    _TAG,
    "Read a response",
    parameters=(
        _RESPONSE_ID,
        query("stream", "As events: those that were, and those to come.", {"type": "boolean", "default": False}),
        query("starting_after", "Only events after this number; needs `stream`.", {"type": "integer", "minimum": 0}),
    ),
    answer=ResponseObject,
    events=RESPONSE_EVENTS,
    errors=STREAM_ERRORS,
)
DELETE = Operation(
    "deleteResponse",
    _TAG,
    "Forget a response",
    parameters=(_RESPONSE_ID,),
    answer=DeletedResponse,
    errors=STREAM_ERRORS,
)
CANCEL = Operation(
    "cancelResponse",
    _TAG,
    "End a background response",
    parameters=(_RESPONSE_ID,),
    answer=ResponseObject,
    errors=STREAM_ERRORS,
)


def input_items_operation(most: int, default: int) -> Operation:
    """The operation that lists input items, at `most` and by `default` so many in a page."""
    return Operation(
        "listInputItems",
        _TAG,
        "List the messages that a response answers",
        parameters=(
            _RESPONSE_ID,
            query(
                "limit",
                "Most items of the page.",
                {"type": "integer", "minimum": 1, "maximum": most, "default": default},
            ),
            query("order", "By age.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
            query("after", "Id of the item after which the page begins.", {"type": "string"}),
        ),
        answer=InputItemList,
        errors=STREAM_ERRORS,
    )
