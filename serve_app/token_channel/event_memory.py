"""How much memory kept events and requests take: estimates, close enough for the bounds of what is kept."""

from __future__ import annotations

import sys
from typing import Any

from serve_app.core.events import Accepted, StreamEvent, TokenDelta, TokenLogprob
from serve_app.core.request import GenerationRequest

LOG_BYTES = 500
"""Memory of an empty log."""
PART_BYTES = 60
"""Memory of a packed part beside its content: Python's own of a `bytes`, and what says where the part lies."""
_EVENT_BYTES = 170
"""Memory of one event beside its text and tokens."""
_LIST_BYTES = 72
_TOKEN_BYTES = 40
"""A number in a list."""
_LOGPROB_BYTES = 180
_ALTERNATIVE_BYTES = 140
_REQUEST_BYTES = 1100
"""Memory of a kept stream beside its events, its prompt and its envelope."""


def event_bytes(event: StreamEvent) -> int:
    """Memory that one event takes, estimated."""
    if type(event) is TokenDelta:
        size = _EVENT_BYTES + sys.getsizeof(event.text) + _TOKEN_BYTES * event.count
        return size if event.logprobs is None else size + sum(map(_logprob_bytes, event.logprobs))
    if isinstance(event, Accepted):
        return _EVENT_BYTES + _TOKEN_BYTES * len(event.prompt_token_ids or ())
    return _EVENT_BYTES


def request_bytes(request: GenerationRequest) -> int:
    """Memory that a kept request takes, estimated: nearly all of it is the prompt and the answer's envelope."""
    prompt, retention = request.prompt, request.retention
    size = _REQUEST_BYTES + _deep_bytes(prompt.text or prompt.messages or "")
    size += _TOKEN_BYTES * len(prompt.token_ids or ())
    return size + (0 if retention is None else len(retention.envelope))


def _deep_bytes(value: Any) -> int:
    """Memory of texts in lists and mappings, as chat messages are; keys and roles are shared between all requests."""
    size, unread = 0, [value]
    while unread:
        each = unread.pop()
        size += sys.getsizeof(each)
        if isinstance(each, dict):
            unread += [item for key, item in each.items() if key != "role"]
        elif isinstance(each, list | tuple):
            unread += each
    return size


def _logprob_bytes(logprob: TokenLogprob) -> int:
    return _LOGPROB_BYTES + _ALTERNATIVE_BYTES * len(logprob.top)
