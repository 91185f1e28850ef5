"""The seams of the system: what the router needs of an engine, and the ingress of a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from serve_app.core.departure import Departure
from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import ServeAppError
from serve_app.core.events import StreamEvent
from serve_app.core.request import GenerationRequest, Priority

Clock = Callable[[], float]
"""Monotonic seconds, as `time.monotonic`."""

_T = TypeVar("_T")


class Rng(Protocol):
    """A source of randomness that is handed in, as `random.Random`: what uses it repeats exactly under a fixed seed."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def uniform(self, a: float, b: float) -> float:
        """A number between `a` and `b`."""

    def sample(self, population: Sequence[_T], k: int) -> list[_T]:
        """`k` different elements, in random order."""


Emit = Callable[[StreamEvent], None]
"""Takes one event at once, without blocking or raising; called on the engine's event loop."""


class Engine(Protocol):
    """One model, loaded once per engine replica. Used from one event loop; `generate` runs concurrently.

    await engine.start()
    events: list[StreamEvent] = []
    await engine.generate(GenerationRequest("r1", "smol", Prompt(text="Hello")), events.append)
    # events: Accepted(...), TokenDelta(...), ..., Finished(...)
    await engine.close()
    """

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

    @property
    def max_token_bytes(self) -> int:
        """Bytes of text that one token covers at most, once started; 0 when that is not known, or has no bound."""

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


Sink = Callable[[Sequence[StreamEvent]], bool]
"""Takes events at once, without blocking or raising; returns whether it can take more at once."""


class TokenStream(Protocol):
    """One admitted or waiting request, read by one task."""

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """Wait for events and return all that are pending, in order.

        Returns an empty sequence when `timeout_s` (resolution 0.1 s) passed without one, and None after the end.
        `Failed` is never returned: it is raised as the `ServeAppError` that it stands for.

        A stream may hand events that come while this waits to `sink` instead, in order, and go on waiting, the time
        beginning anew: that spares waking the reader's task for each engine step. When `sink` wants no more, an empty
        sequence is returned. The last events of a stream are always returned.
        """

    @property
    def queue_position(self) -> int | None:
        """Requests ahead of this one in the waiting queue; None once dispatched."""

    async def aclose(self) -> None:
        """End the stream: aborts the generation if it still runs, releases its place. Idempotent; always call it."""


@dataclass(frozen=True, slots=True)
class KeptState:
    """A kept answer as it stands at one moment."""

    request: GenerationRequest
    events: Sequence[StreamEvent]
    """All that came, in brief: deltas of one kind that follow each other are one, without token ids and
    log-probabilities. Empty while it waits. `Failed` is told by `error` instead."""
    texts: int
    """How many pieces of content the deltas brought before they were joined."""
    position: int
    """Where a reader stands who has all of it, see `TokenDelta.position`."""
    ended: bool
    error: ServeAppError | None = None
    """What ended it, unless it was completed."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The part of an answer that a reader does not get, since it has it."""

    tokens: int
    characters: int
    """Characters of these tokens, as their log-probabilities show them; 0 where there are none."""


class ResumedStream(TokenStream, Protocol):
    """A new reader of a kept stream; closing it leaves the stream itself for others."""

    @property
    def request(self) -> GenerationRequest:
        """The request as it was opened; `request.retention.envelope` says how its answer is written."""

    def skipped(self) -> Skipped:
        """What the reader has already; ask before the first `next`."""


class Router(Protocol):
    """Admits requests and turns each into a stream. Safe to call concurrently on its event loop.

    stream = router.open(GenerationRequest("r1", "smol", Prompt(text="Hello")))
    try:
        while (events := await stream.next()) is not None:
            ...  # Accepted first, then TokenDelta, and Finished last; what fails is raised
    finally:
        await stream.aclose()
    """

    def open(self, request: GenerationRequest) -> TokenStream:
        """Offer `request`. Raises `ModelNotFound` at once; every later failure is raised by the stream's `next`.

        With `request.retention` set, `aclose` only takes this reader away: the generation goes on for the grace time
        and its output is kept. Raises `StreamConflict` when this router holds a stream of that key already.
        """

    async def resume(self, key: str, tenant: str, from_token: int = 0) -> ResumedStream:
        """Read a kept stream from output token `from_token` on, whichever router or engine replica holds it.

        `Accepted` comes first, again. Text belongs to the token that completed it: a delta that began before
        `from_token` and ends after it comes with its later tokens and its whole text. Several readers at one router do
        not disturb each other. Raises `StreamNotFound`, also when the stream is another tenant's, and `InvalidRequest`
        naming `offset` when `from_token` is beyond what a stream that has ended holds.
        """

    async def look_up(self, key: str, tenant: str) -> KeptState:
        """A kept stream as it stands, without becoming its reader. Raises `StreamNotFound`."""

    async def cancel(self, key: str, tenant: str, *, forget: bool = False) -> KeptState:
        """End a kept stream (`StreamCancelled` is then its error, unless it had ended), and forget it if asked.

        Idempotent, but for forgotten streams. Raises `StreamNotFound`.
        """

    @property
    def signing_key(self) -> bytes:
        """Secret of this application by which ids given to clients are authenticated: the same in all router replicas,
        and after redeployments in one cluster."""

    @property
    def departure(self) -> Departure:
        """Whether this router replica is about to be stopped."""

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        """Count and log a request that the ingress did not offer, since it could not be read or was out of bounds."""

    def models(self) -> Sequence[ModelCard]:
        """The models that this application serves."""

    def can_admit(self) -> bool:
        """Whether a new request would be admitted or queued now; true for a model that sleeps."""

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        """What a request of that priority would meet now. Cheap; raises `ModelNotFound`."""

    async def metrics_text(self) -> bytes:
        """Metrics of all routers and engines in Prometheus text format, each sample with a `replica` label."""
