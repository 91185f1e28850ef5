"""Settings of the WebSocket endpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_SERVER_LIMIT_BYTES = 16 * 1024 * 1024
"""Uvicorn closes a socket itself at a larger message; Serve has no option for it."""


class WebSocketConfig(BaseModel):
    """Bounds of one socket, so that no client costs more than this whatever it sends, reads or leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_message_bytes: Annotated[int, Field(gt=0, lt=_SERVER_LIMIT_BYTES)] = 8 * 1024 * 1024
    """Largest message from a client in bytes; a larger one gets an error. Half of what the HTTP server itself takes
    before it closes the socket."""
    max_requests: Annotated[int, Field(gt=0)] = 64
    """Requests that one socket may have open at once, waiting ones included; one more is refused with 429. Each is
    admitted like an HTTP request: this only bounds what one socket keeps in the router's memory."""
    max_unsent_replies: Annotated[int, Field(gt=0)] = 64
    """Answers to pings and mistakes that may wait for a client that does not read; at one more the socket is closed."""
    max_mistakes: Annotated[int, Field(gt=0)] = 10
    """Malformed messages in a row after which the socket is closed: by then nobody reads the errors."""
    idle_timeout_s: Annotated[float, Field(ge=1.0)] = 300.0
    """Seconds without an open request and without a message after which a socket is closed. Half of the ten minutes
    for which a replica that is being replaced waits, so that idle sockets do not hold it up."""
    queue_look_s: Annotated[float, Field(ge=0.1)] = 0.5
    """Seconds between looks at the queue for a request that waits; a client hears of a new position this late."""
