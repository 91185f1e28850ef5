"""Configuration of the router: queue bounds, waiting times and buffers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.resilience.admission_queue import WhenFull


class RouterConfig(BaseModel):
    """`args.router` in the Serve config file. Bounds are per model and router replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_limit_requests: int = Field(default=256, ge=0)
    """Requests that may wait for an engine. 0 refuses whatever cannot start at once."""
    queue_limit_tokens: int = Field(default=400_000, ge=1)
    """Estimated prompt tokens that may wait. A single prompt above it is let in when nothing else waits."""
    when_full: WhenFull = WhenFull.REFUSE
    """`refuse` answers 429 at once; `wait` lets the caller stand in line, up to the two bounds below."""
    in_line_limit: int = Field(default=1024, ge=1)
    """Callers that may stand in line with `when_full: wait`."""
    in_line_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds after which a caller in line is refused."""
    queue_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds after which a queued request is refused although engines are alive (429)."""
    no_engine_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that a request waits while no engine is ready (503): above the time that a model takes to load, so that
    a model that starts or merely sleeps is waited for."""
    accept_timeout_s: float = Field(default=2.0, gt=0)
    """Seconds without the engine's first answer after which another replica with room is tried."""
    dispatch_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds without the engine's first answer, over all tries, after which the request fails (503)."""
    stream_buffer_bytes: int = Field(default=1_048_576, ge=4096)
    """Generated output that one stream may hold for a client that does not read; beyond it the stream is cut."""
    expected_output_tokens: int = Field(default=256, ge=1)
    """Output tokens assumed for a request until the model's mean is learned; weighs replicas against each other."""
