"""Configuration of the simulated engine: the costs, bounds and faults of the machine that it imitates."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestFault(_Section):
    """Strikes one request, counted from 1 in the order of acceptance."""

    kind: Literal["error", "stall", "crash"]
    """error: that request fails with `EngineFailed`; stall: it makes no progress for `stall_s` while the others go
    on; crash: the engine dies, with everything that it runs, and stays dead."""
    request: int = Field(ge=1)
    """Number of the request."""
    token: int = Field(default=0, ge=0)
    """Output tokens of its first choice that are emitted before the fault; 0 strikes before the first one."""
    stall_s: float = Field(default=0.0, ge=0)
    """Seconds without progress, for a stall."""


class TimedFault(_Section):
    """Strikes the whole engine for a span of time after its start."""

    kind: Literal["slow", "stall", "crash"]
    """slow: steps take `factor` times as long; stall: no step ends within the span; crash: dead from `after_s` on."""
    after_s: float = Field(ge=0)
    """Seconds from the end of `start()` to the fault."""
    for_s: float = Field(default=0.0, ge=0)
    """Seconds that slow and stall last; a crash lasts for good."""
    factor: float = Field(default=1.0, ge=1)
    """Slow-down of a step, for slow."""


class FaultConfig(_Section):
    """What goes wrong, and when: drawn from a seeded source, or listed one by one. By default nothing does."""

    seed: int | None = 0
    """Seed of all drawn faults. None draws differently in every process, so that replicas do not fail in step."""
    start_failure_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that `start()` raises `EngineFailed` after the load time."""
    error_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that a request fails with `EngineFailed`."""
    stall_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that a request stops making progress for `stall_s`."""
    crash_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that a request takes the whole engine down."""
    stall_s: float = Field(default=5.0, ge=0)
    """Seconds that a drawn stall lasts; 5 is longer than an inter-token deadline usually allows."""
    within_tokens: int = Field(default=32, ge=1)
    """A drawn fault strikes before an output token drawn uniformly from the first so many ones."""
    requests: tuple[RequestFault, ...] = ()
    """Faults at given requests; they take precedence over drawn ones."""
    timed: tuple[TimedFault, ...] = ()
    """Faults at given times."""

    @model_validator(mode="after")
    def _probabilities_sum_to_at_most_one(self) -> Self:
        if self.error_probability + self.stall_probability + self.crash_probability > 1:
            raise ValueError("error_probability + stall_probability + crash_probability must not exceed 1")
        return self


class SimulatedEngineConfig(_Section):
    """An imitated model and accelerator. The defaults resemble a small model on one recent GPU."""

    kind: Literal["simulated"] = "simulated"
    """Chooses this engine."""

    load_s: float = Field(default=0.0, ge=0)
    """Seconds that `start()` takes, as loading weights does; 0 keeps tests and demos quick."""
    max_model_len: int = Field(default=8192, ge=2)
    """Context window in tokens: prompt and output together."""
    mean_output_tokens: int = Field(default=200, ge=1)
    """Mean length at which an output ends by itself. Every position has the same chance, so lengths vary widely."""
    seed: int = 0
    """Seed of sampled outputs whose request brings none: the same request then always gets the same answer."""

    max_running: int = Field(default=256, ge=1)
    """Sequences in the running batch; more wait in arrival order. vLLM calls it `max_num_seqs`."""
    kv_capacity_tokens: int = Field(default=262_144, ge=2)
    """Tokens that the KV cache holds. A sequence that does not fit waits; when running ones outgrow the cache the
    youngest is preempted and recomputed later. At least `max_model_len`."""
    prefix_cache_tokens: int = Field(default=65_536, ge=0)
    """Prompt tokens remembered for prefix-cache hits, least recently used dropped first; 0 turns the cache off.
    Accounted apart from `kv_capacity_tokens`."""
    prefix_block_tokens: int = Field(default=16, ge=1)
    """Hits are counted in whole blocks of this many tokens; 16 is vLLM's block."""

    prefill_s_per_token: float = Field(default=0.00005, ge=0)
    """Seconds of step time per prompt token that is not in the prefix cache."""
    prefill_chunk_tokens: int = Field(default=2048, ge=1)
    """Prompt tokens computed in one step at most; longer prompts are spread over steps so that decoding goes on."""
    decode_base_s: float = Field(default=0.008, gt=0)
    """Seconds that a step takes whatever its batch."""
    decode_s_per_sequence: float = Field(default=0.00005, ge=0)
    """Seconds added to a step by each sequence that decodes in it."""
    step_s: float | None = Field(default=None, gt=0)
    """Fixed seconds per step instead of all the costs above: every stream then gets 1 / step_s tokens/s (0.02 gives
    50), and prefill costs no more than the step that it shares. None uses the cost model."""

    cold_requests: int = Field(default=0, ge=0)
    """The engine is cold until this many requests have completed."""
    cold_s: float = Field(default=0.0, ge=0)
    """The engine is cold for this many seconds after its start."""
    cold_factor: float = Field(default=4.0, ge=1)
    """Steps take this many times as long while the engine is cold."""

    faults: FaultConfig = FaultConfig()
    """What goes wrong on purpose."""

    @model_validator(mode="after")
    def _one_sequence_fits(self) -> Self:
        if self.kv_capacity_tokens < self.max_model_len:
            raise ValueError("kv_capacity_tokens must be at least max_model_len, or a long request could never run")
        return self
