"""Configuration of the router's decisions: each policy's own section, and waiting times."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.core.request import Priority
from serve_app.resilience.adaptive_limit import AdaptiveLimitConfig
from serve_app.resilience.admission_queue import AdmissionConfig
from serve_app.resilience.circuit_breaker import CircuitBreakerConfig
from serve_app.resilience.hedging import HedgingConfig
from serve_app.resilience.outlier_ejection import OutlierEjectionConfig
from serve_app.resilience.retry import RetryConfig
from serve_app.resilience.slow_start import SlowStartConfig
from serve_app.resilience.slowness import SlownessConfig
from serve_app.resilience.stream_timeouts import StreamTimeoutsConfig


class ReplicaPoliciesConfig(BaseModel):
    """`args.router.replicas` in the Serve config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: AdaptiveLimitConfig = AdaptiveLimitConfig()
    """How many generations a replica should hold."""
    slow_start: SlowStartConfig = SlowStartConfig()
    """How a new replica gets its share."""
    breaker: CircuitBreakerConfig = CircuitBreakerConfig()
    """When a failing replica is left alone."""
    slowness: SlownessConfig = SlownessConfig()
    """What counts as slow."""
    ejection: OutlierEjectionConfig = OutlierEjectionConfig()
    """How a slow replica comes back."""
    stale_after_s: float = Field(default=2.0, gt=0)
    """Seconds after which a heartbeat is too old to act on: two missed ones. The limit then stands still, and this
    router's own count against its share of it decides."""


class FirstTokenObjectives(BaseModel):
    """`args.router.first_token_objectives_s`: seconds within which a request of each band should get its first token.

    A request whose wait in the queue would be longer, at the rate at which work leaves now, is refused at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interactive: float | None = Field(default=10.0, gt=0)
    """Somebody looks at the screen. None: no objective, as for the others."""
    default: float | None = Field(default=30.0, gt=0)
    """Below the time after which most HTTP clients give up."""
    batch: float | None = Field(default=None, gt=0)
    """Nobody waits for batch work: only the time in the queue is bounded."""

    def of(self, priority: Priority) -> float | None:
        """The objective of one band."""
        return {
            Priority.INTERACTIVE: self.interactive,
            Priority.DEFAULT: self.default,
            Priority.BATCH: self.batch,
        }[priority]


class FailoverConfig(BaseModel):
    """`args.router.failover`: what becomes of streams whose replica dies, stalls or is removed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    """False ends a stream that has begun with an error event instead."""
    max_losses: int = Field(default=3, ge=0)
    """Replicas that one stream may lose before it fails: a request that kills engines must not visit them all. One that
    dies before it has taken the stream counts as well, and so does one that stalls it, or raises after its first token;
    one that is removed does not."""
    drain_handover_s: float = Field(default=60.0, ge=0)
    """Seconds for which a replica that Serve removes may go on with its streams; then they are continued by others
    where those have room. Keep it below the deployment's `graceful_shutdown_timeout_s`, at which Serve kills."""


class DecisionsConfig(BaseModel):
    """The part of `args.router` that its decision core reads. Bounds are per model and router replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    admission: AdmissionConfig = AdmissionConfig()
    """Who may wait, and whose turn it is."""
    first_token_objectives_s: FirstTokenObjectives = FirstTokenObjectives()
    """Seconds to the first token that each priority band is promised."""
    replicas: ReplicaPoliciesConfig = ReplicaPoliciesConfig()
    """What each engine replica is sent."""
    timeouts: StreamTimeoutsConfig = StreamTimeoutsConfig()
    """When a silent stream counts as stuck."""
    retry: RetryConfig = RetryConfig()
    """What is tried again."""
    hedging: HedgingConfig = HedgingConfig()
    """Which requests get a second attempt before the first has failed."""
    failover: FailoverConfig = FailoverConfig()
    """How streams survive their replica."""
    no_engine_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that a request waits while no engine is ready (503). A model that starts or merely sleeps is waited for:
    once it was seen to load, for three times as long as that took, if that is more."""
    max_prefill_backlog_s: float = Field(default=0.25, gt=0)
    """Seconds of prompt computation that may be queued at an engine replica, by what was learned of its first tokens.
    What waits beyond it waits in the router's queue, where turns are fair and the next free replica takes it."""
    accept_timeout_s: float = Field(default=2.0, gt=0)
    """Seconds without the engine's first answer after which another replica with room is tried."""
    accept_timeout_per_ktoken_s: float = Field(default=0.05, ge=0)
    """Seconds beyond `accept_timeout_s` for each 1,000 tokens of the prompt, by estimate: an engine renders the prompt
    before it answers. About eight times what a tokenizer takes on an idle core."""
    dispatch_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds without the engine's first answer, over all tries, after which the request fails (503)."""
    expected_output_tokens: int = Field(default=256, ge=1)
    """Output tokens assumed for a request until the model's mean is learned; weighs replicas against each other."""
