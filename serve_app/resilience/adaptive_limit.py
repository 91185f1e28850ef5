"""How many generations one engine replica should hold at once: enough for full batches, not so many that they queue.

Additive increase, multiplicative decrease: D.-M. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms
for Congestion Avoidance in Computer Networks", Computer Networks and ISDN Systems 17, 1989. A queue counts as standing
only when it never emptied during a whole control interval: K. Nichols and V. Jacobson, "Controlling Queue Delay"
(CoDel), ACM Queue 10(5), 2012, whose lesson is that the *minimum* tells a standing queue from a burst.

Not used: the latency gradients of Netflix' concurrency-limits (Vegas, Gradient2). They divide round-trip times, and the
end-to-end time of a generation is its output length: a batch of long answers looks like congestion. What means
something here are the engine's own counters (its queue, its KV cache) and the time to first token per prompt token.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field


class AdaptiveLimitConfig(BaseModel):
    """When the limit moves, and how far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_limit: int = Field(default=1, ge=1)
    """Generations that a replica may always hold."""
    interval_s: float = Field(default=0.5, gt=0)
    """Seconds of one control interval: the limit moves at most once in each. A few heartbeats and engine steps."""
    waiting_fraction: float = Field(default=0.05, ge=0)
    """Requests waiting in the engine, as a share of its running ones, that are welcome: they fill a place in the batch
    the moment it is free. A standing queue above it belongs into the router's queue, which is fair and can refuse."""
    kv_high: float = Field(default=0.95, gt=0, le=1)
    """KV-cache use from which the limit falls: beyond it vLLM preempts running requests and computes them again."""
    kv_hold: float = Field(default=0.9, gt=0, le=1)
    """KV-cache use from which the limit rises no more, since what runs still grows."""
    ttft_factor: float = Field(default=8.0, gt=1)
    """The limit falls when even the fastest first token of an interval took so many times the fastest of the last
    minute or two, per uncached prompt token. Large, as a full batch alone makes first tokens several times slower;
    it is the signal for engines that report neither queue nor cache."""
    ttft_fixed_tokens: int = Field(default=256, ge=1)
    """Prompt tokens whose computation takes about as long as the fixed part of a first token."""
    decrease: float = Field(default=0.85, gt=0, lt=1)
    """Factor on what is in use when KV cache, TTFT or refusals ask for less."""
    increase_fraction: float = Field(default=0.0625, gt=0, le=1)
    """Share of the capacity added per interval, at least 1, while the limit is used and nothing is congested: the
    whole range in 8 s. There is one limiter per replica, so a large step costs no fairness."""
    used_fraction: float = Field(default=0.9, gt=0, le=1)
    """The limit counts as used from this share on: an unused limit is no evidence that more would be good."""
    baseline_s: float = Field(default=60.0, gt=0)
    """Seconds over which the fastest first token is remembered; up to twice as long, as two halves take turns."""


class AdaptiveLimit:
    """The limit of one replica, over all routers; always within [min_limit, capacity]. Pure and single-threaded.

    It starts at the capacity: an engine that says how much it can hold is believed until it shows congestion. Too high
    a limit only moves waiting requests from the router's queue to the engine's; too low a one wastes the batch.
    """

    def __init__(self, config: AdaptiveLimitConfig, capacity: int, now: float) -> None:
        self._config = config
        self._capacity = max(capacity, config.min_limit)
        self._limit = self._capacity
        self.congested = False
        """Whether the last interval showed congestion: a slow answer then says nothing about the replica's health."""
        self._interval_end = now + config.interval_s
        self._reports = 0
        self._waiting_min = 0
        self._running_first = 0
        self._running_max = 0
        self._in_use_max = 0
        self._kv_max = 0.0
        self._refused = False
        self._ttft_count = 0
        self._ttft_min = math.inf
        self._baseline = math.inf
        self._baseline_next = math.inf
        self._baseline_end = now + config.baseline_s

    @property
    def limit(self) -> int:
        """Generations that the replica should hold at most."""
        return self._limit

    def first_token(self, ttft_s: float, uncached_prompt_tokens: int) -> None:
        """A first token came `ttft_s` seconds after dispatch; so many prompt tokens were not in the prefix cache."""
        per_token = ttft_s / (uncached_prompt_tokens + self._config.ttft_fixed_tokens)
        self._ttft_count += 1
        if per_token < self._ttft_min:
            self._ttft_min = per_token

    def overloaded(self) -> None:
        """The replica refused a request for lack of room."""
        self._refused = True

    def reported(
        self, running: int, waiting: int, kv_cache_usage: float, in_use: int, capacity: int, now: float
    ) -> None:
        """Take a heartbeat: `running` and `waiting` requests in the engine, `in_use` generations over all routers."""
        self._follow_capacity(capacity)
        if self._reports == 0:
            self._waiting_min = waiting
            self._running_first = running
            self._running_max = running
            self._in_use_max = in_use
            self._kv_max = kv_cache_usage
        else:
            self._waiting_min = min(self._waiting_min, waiting)
            self._running_max = max(self._running_max, running)
            self._in_use_max = max(self._in_use_max, in_use)
            self._kv_max = max(self._kv_max, kv_cache_usage)
        self._reports += 1
        if now >= self._interval_end and self._reports > 1:
            self._control(running)
            self._start_interval(now)

    def is_full(self, running: int, waiting: int, kv_cache_usage: float) -> bool:
        """Whether an engine with such a load makes new requests wait."""
        return waiting > self._welcome(running) or kv_cache_usage >= self._config.kv_hold

    def _welcome(self, running: int) -> int:
        return max(1, int(self._config.waiting_fraction * running))

    def _control(self, running: int) -> None:
        config = self._config
        in_use = max(self._in_use_max, 1)
        welcome = self._welcome(self._running_max)
        # While the batch still grows, the engine is only computing its way into a burst of prompts.
        standing_queue = self._waiting_min > welcome and running <= self._running_first
        ttft_slow = self._ttft_count >= 3 and self._ttft_min > config.ttft_factor * self._baseline
        used = in_use >= min(config.used_fraction * self._limit, self._limit - 1)
        target = self._limit
        if standing_queue:
            # What the engine runs is what it can run; never less than half in one go, since one look may mislead.
            target = min(target, max(self._running_max + welcome, self._limit // 2))
        if self._kv_max >= config.kv_high or self._refused or (ttft_slow and used):
            # From what is in use, not from the limit: until running streams end, the next interval sees the same.
            target = min(target, int(config.decrease * in_use))
        self.congested = standing_queue or self._kv_max >= config.kv_high or self._refused or ttft_slow
        calm = self._waiting_min == 0 and self._kv_max < config.kv_hold and not self.congested
        if calm and used:
            target += max(1, int(config.increase_fraction * self._capacity))
        self._limit = max(config.min_limit, min(target, self._capacity))

    def _start_interval(self, now: float) -> None:
        self._baseline = min(self._baseline, self._ttft_min)
        self._baseline_next = min(self._baseline_next, self._ttft_min)
        if now >= self._baseline_end:
            self._baseline = self._baseline_next
            self._baseline_next = math.inf
            self._baseline_end = now + self._config.baseline_s
        self._interval_end = now + self._config.interval_s
        self._reports = 0
        self._refused = False
        self._ttft_count = 0
        self._ttft_min = math.inf

    def _follow_capacity(self, capacity: int) -> None:
        capacity = max(capacity, self._config.min_limit)
        if capacity != self._capacity:
            unbounded = self._limit == self._capacity
            self._capacity = capacity
            self._limit = capacity if unbounded else min(self._limit, capacity)
