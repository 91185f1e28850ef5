"""The seams of the system: what the router needs of an engine, and the ingress of a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.core.engine_status import EngineLoad
from serve_app.core.events import StreamEvent
from serve_app.core.request import GenerationRequest, Priority

Clock = Callable[[], float]
"""Monotonic seconds, as `time.monotonic`."""

Emit = Callable[[StreamEvent], None]
"""Takes one event at once, without blocking or raising; called on the engine's event loop."""


class Engine(Protocol):
    """One model, loaded once per engine replica. Used from one event loop; `generate` runs concurrently."""

    async def start(self) -> None:
        """Load the model. Returns when requests can be computed; raises `EngineFailed` when that is impossible."""

    async def generate(self, request: GenerationRequest, emit: Emit) -> None:
        """Compute `request`, handing each event to `emit`; return after the last choice's `Finished`.

        Emits `Accepted` as soon as the prompt is rendered and valid, before any queueing in the engine. Cancelling
        the call aborts the generation. Never emits `Failed`: it raises `InvalidRequest`, `ContextLengthExceeded`
        or `EngineFailed` instead.
        """

    def load(self) -> EngineLoad:
        """Present load; cheap, called with every heartbeat."""

    async def check_health(self) -> None:
        """Raise `EngineFailed` when the engine can no longer serve."""

    def metrics_text(self) -> bytes:
        """The engine's own metrics in Prometheus text format; empty when it has none."""

    @property
    def max_model_len(self) -> int:
        """Context window in tokens, once started."""

    async def close(self) -> None:
        """Release everything, child processes included. Idempotent."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One served model, as `/v1/models` shows it."""

    id: str
    created: int
    """Unix time in seconds at which the application was built."""
    max_model_len: int | None = None
    """Context window in tokens; None until an engine replica has reported it."""


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """The places of one priority band in a model's waiting queue, as clients see them in `x-ratelimit-*` headers."""

    limit_requests: int
    remaining_requests: int
    limit_tokens: int
    """Prompt tokens that may wait."""
    remaining_tokens: int
    reset_requests_s: float
    """Estimated seconds until all places are free; 0 when they are."""
    reset_tokens_s: float


class TokenStream(Protocol):
    """One admitted or waiting request, read by one task."""

    async def next(self, timeout_s: float | None = None) -> Sequence[StreamEvent] | None:
        """Wait for events and return all that are pending, in order.

        Returns an empty sequence when `timeout_s` (resolution 0.1 s) passed without one, and None after the end.
        `Failed` is never returned: it is raised as the `ServeAppError` that it stands for.
        """

    @property
    def queue_position(self) -> int | None:
        """Requests ahead of this one in the waiting queue; None once dispatched."""

    async def aclose(self) -> None:
        """End the stream: aborts the generation if it still runs, releases its place. Idempotent; always call it."""


class Router(Protocol):
    """Admits requests and turns each into a stream. Safe to call concurrently on its event loop."""

    def open(self, request: GenerationRequest) -> TokenStream:
        """Offer `request`. Raises `ModelNotFound` at once; every later failure is raised by the stream's `next`."""

    def models(self) -> Sequence[ModelCard]:
        """The models that this application serves."""

    def can_admit(self) -> bool:
        """Whether a new request would be admitted or queued now; true for a model that sleeps."""

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        """What a request of that priority would meet now. Cheap; raises `ModelNotFound`."""

    async def metrics_text(self) -> bytes:
        """Metrics of all routers and engines in Prometheus text format, each sample with a `replica` label."""
