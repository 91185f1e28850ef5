"""Configuration of the router: what its decision core reads, buffers, and what is kept of streams."""

from __future__ import annotations

from pydantic import Field

from serve_app.resilience.retention import RetentionConfig
from serve_app.router.decisions.config import DecisionsConfig


class RouterConfig(DecisionsConfig):
    """`args.router` in the Serve config file. Bounds are per model and router replica."""

    retention: RetentionConfig = RetentionConfig()
    """What is kept of streams that can be resumed, at routers and at engines."""
    stream_buffer_bytes: int = Field(default=1_048_576, ge=4096)
    """Generated output that one stream may hold for a client that does not read; beyond it the stream is cut."""
