"""What an engine replica says about itself, with every heartbeat."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Load of one engine, as the engine itself counts it."""

    running: int = 0
    """Requests in the running batch."""
    waiting: int = 0
    """Requests that the engine has queued."""
    kv_cache_usage: float = 0.0
    """Fraction of the KV cache in use, 0..1."""
    steps: int = 0
    """Steps that produced output since start: a live engine with running requests counts on."""
    generated_tokens: int = 0
    """Output tokens since start."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One heartbeat of an engine replica to one router."""

    engine_id: str
    """Unique id of the Serve replica."""
    model: str
    """Served model id."""
    load: EngineLoad
    capacity: int
    """Generations that the replica admits at once, over all routers; each choice of a request counts."""
    generations: int
    """Generations that it runs now, over all routers."""
    routers: int
    """Live routers that it is attached to; its room is divided among them."""
    ready: bool
    """The model is loaded and the engine healthy."""
    max_model_len: int
    """Context window in tokens; 0 when unknown."""
    max_token_bytes: int = 0
    """Bytes of text that one token covers at most; 0 when that is not known, or has no bound."""
