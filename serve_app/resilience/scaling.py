"""How many engine replicas a model needs: from waiting tokens and engine load to a target that does not flap.

Pure: the clock reading is handed in. `serve_app.autoscaling` asks it from Serve's controller.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

_RATE_MEMORY_S = 30.0
"""Time constant of the learned tokens per second: a few batches of requests."""


class ScalingConfig(BaseModel):
    """Knobs of the policy: `policy_kwargs` of `autoscaling_policy` in the Serve config file. Bounds on the number of
    replicas are Serve's own (`autoscaling_config` of the engine deployment)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_utilization: float = Field(default=0.75, gt=0, le=1)
    """Fraction of a replica's places and KV cache that may be in use before another replica is wanted. The rest is
    what takes up a burst while that one loads; lower is safer and dearer."""
    target_queue_wait_s: float = Field(default=10.0, gt=0)
    """Seconds in which the waiting tokens should be worked off; fewer seconds, more replicas for the same queue. Well
    below the time that the model takes to load, it starts replicas that come when the queue is gone."""
    min_tokens_per_s: float = Field(default=500.0, gt=0)
    """Prompt and output tokens per second that one replica is taken to do at least: all that is known of a model that
    never ran, and the floor of what is learned. Small: a queue starts more replicas. The default is a 7B model's on
    one older GPU, with room to spare."""
    max_step_replicas: int = Field(default=2, ge=1)
    """Replicas that may load at once, however few run: cold starts share disk, network and the cluster's free GPUs."""
    max_step_factor: float = Field(default=2.0, ge=1)
    """The fleet may grow to this multiple of the running replicas at once, where that is more. 2 doubles."""
    tolerance: float = Field(default=0.1, ge=0, lt=1)
    """Relative distance between demand and replicas that changes nothing; Kubernetes' default."""
    upscale_stabilization_s: float = Field(default=3.0, ge=0)
    """Seconds during which more replicas must have been wanted all along; a burst that a full batch takes up passes.
    A sleeping model is woken at once."""
    downscale_stabilization_s: float = Field(default=300.0, ge=0)
    """Seconds during which fewer replicas must have sufficed all along. A loaded model is worth keeping; Kubernetes'
    default. Doubled each time that replicas are wanted again within `max_downscale_stabilization_s` after some were
    given up, and halved after twice that time without."""
    max_downscale_stabilization_s: float = Field(default=1800.0, ge=0)
    """Bound of that doubling, in seconds. Equal to `downscale_stabilization_s` it turns the doubling off."""
    idle_before_zero_s: float = Field(default=600.0, ge=0)
    """Seconds without a request after which the last replica goes, where `min_replicas` is 0. The next request then
    waits for the model to load."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The load of one model over the whole application, or what one router knows of it."""

    queued_requests: float = 0.0
    """Requests that wait in routers."""
    queue_tokens: float = 0.0
    """Their prompt tokens plus the output tokens that they are expected to get."""
    queue_waiting_s: float = 0.0
    """Seconds since the queue was last empty; 0 when it is."""
    request_tokens: float = 0.0
    """Mean prompt and output tokens of a request."""
    engines: float = 0.0
    """Engine replicas that report."""
    capacity: float = 0.0
    """Generations that they admit at once, summed."""
    generations: float = 0.0
    """Generations that they run or hold."""
    engine_waiting: float = 0.0
    """Those of them that wait inside engines."""
    kv_cache_usage: float = 0.0
    """Fractions of their KV caches in use, summed."""
    tokens_per_s: float = 0.0
    """Prompt and output tokens that they have done per second of late."""
    idle_s: float = 0.0
    """Seconds without any request."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The replicas of one engine deployment."""

    running: int
    """Replicas that have loaded their model; those that drain not counted."""
    target: int
    """Replicas that are wanted now; those above `running` are loading."""
    minimum: int
    maximum: int


class ScalingReason(StrEnum):
    """What decided a target."""

    STEADY = "steady"
    """Demand is near enough to the target, or has not lasted long enough."""
    QUEUE = "queue"
    """Waiting tokens would not be worked off in time."""
    UTILIZATION = "utilization"
    """Engines are too full, or too empty."""
    IDLE = "idle"
    """Nobody has asked for long."""
    UNKNOWN = "unknown"
    """No router has reported of late: nothing is changed."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """How many replicas to have, and why."""

    target: int
    reason: ScalingReason
    demand: float = 0.0
    """Replicas that the load would fill to the target utilisation."""


class ScalingPolicy:
    """Decides for one engine deployment. Single-threaded; ask it regularly, a few times a second at most.

    Demand is the larger of places and KV cache in use, over `target_utilization`, plus the replicas that it takes to
    work the waiting tokens off within `target_queue_wait_s` (queue-wait targets for LLMs: Chiron, arXiv 2501.08090;
    SageServe, arXiv 2502.14617). From there on it is Kubernetes' HorizontalPodAutoscaler: a tolerance around the
    present target, the least of the recommendations within the upscale window to go up, the largest within the
    downscale window to go down, and bounded steps up; and KEDA's activation from and to zero. Steps are bounded by the
    replicas that *run*, so that they wait for cold starts however long these take. A downscale that is regretted
    doubles the window (flap damping, RFC 2439): engines slow down when they are full, so that the demand of few busy
    replicas exceeds that of many idle ones for the same load.
    """

    def __init__(self, config: ScalingConfig) -> None:
        self._config = config
        self._least = _Window(largest=False)
        self._largest = _Window(largest=True)
        self._downscale_window_s = config.downscale_stabilization_s
        self._longest_window_s = max(config.downscale_stabilization_s, config.max_downscale_stabilization_s)
        self._loading_at = -math.inf
        self._scaled_down_at = -math.inf
        self._regretted_at = -math.inf
        self._capacity = 0.0
        self._tokens_per_s = config.min_tokens_per_s
        self._learned_at: float | None = None

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens per second that one busy replica is believed to do."""
        return self._tokens_per_s

    @property
    def downscale_window_s(self) -> float:
        """Seconds during which fewer replicas must suffice now."""
        return self._downscale_window_s

    def decide(self, load: ModelLoad | None, fleet: Fleet, now: float) -> ScalingDecision:
        """The target at clock reading `now` (seconds, never running back), within the fleet's bounds.

        `load` is None when no router has reported: the target stays, since nothing is known.
        """
        if fleet.running < fleet.target:
            self._loading_at = now
        if load is None:
            self._least.forget()
            self._largest.forget()
            return ScalingDecision(_within(fleet.target, fleet), ScalingReason.UNKNOWN)
        self._learn(load, now)
        demand = self._busy_replicas(load) + self._waiting_replicas(load)
        wanted = self._recommend(load, fleet, demand, now)
        self._least.add(now, wanted, self._config.upscale_stabilization_s)
        self._largest.add(now, wanted, self._longest_window_s)
        up = wanted if fleet.target == 0 else self._least.extreme_since(now - self._config.upscale_stabilization_s)
        if up is not None and up > fleet.target:
            target = _within(self._step(up, fleet), fleet)
            self._note_upscale(target, fleet, now)
            reason = ScalingReason.QUEUE if load.queued_requests > 0 else ScalingReason.UTILIZATION
            return ScalingDecision(target, reason, demand)
        enough = self._enough(load, fleet, now)
        if enough < fleet.target:
            target = _within(enough, fleet)
            self._note_downscale(target, fleet, now)
            return ScalingDecision(target, ScalingReason.UTILIZATION if enough else ScalingReason.IDLE, demand)
        return ScalingDecision(_within(fleet.target, fleet), ScalingReason.STEADY, demand)

    def _learn(self, load: ModelLoad, now: float) -> None:
        if load.engines > 0:
            self._capacity = load.capacity / load.engines
        # Only what engines do while work waits is what they can do.
        if load.engines > 0 and load.queued_requests + load.engine_waiting > 0:
            rate = load.tokens_per_s / load.engines
            elapsed_s = now - self._learned_at if self._learned_at is not None else _RATE_MEMORY_S
            weight = 1.0 - math.exp(-elapsed_s / _RATE_MEMORY_S)
            learned = self._tokens_per_s + weight * (rate - self._tokens_per_s)
            self._tokens_per_s = max(learned, self._config.min_tokens_per_s)
        self._learned_at = now

    def _busy_replicas(self, load: ModelLoad) -> float:
        places = load.generations / self._capacity if self._capacity > 0 else 0.0
        return max(places, load.kv_cache_usage) / self._config.target_utilization

    def _waiting_replicas(self, load: ModelLoad) -> float:
        tokens = load.queue_tokens + load.engine_waiting * load.request_tokens
        return tokens / (self._tokens_per_s * self._config.target_queue_wait_s)

    def _recommend(self, load: ModelLoad, fleet: Fleet, demand: float, now: float) -> int:
        """Replicas that the present load calls for, whatever was wanted before."""
        tolerance = self._config.tolerance
        if fleet.target == 0:
            return max(1, math.ceil(demand)) if load.queued_requests > 0 else 0
        if demand > fleet.target * (1 + tolerance):
            return math.ceil(demand)
        if load.queue_waiting_s > self._config.target_queue_wait_s:
            # The estimates were too good, if the queue has outlasted its time although no replica was loading.
            return fleet.target + (now - self._loading_at > self._config.target_queue_wait_s)
        return min(fleet.target, max(1, math.ceil(demand * (1 + tolerance))))

    def _step(self, wanted: int, fleet: Fleet) -> int:
        """`wanted`, as far as one step up goes. It never calls replicas off that load already."""
        config = self._config
        ceiling = max(fleet.running + config.max_step_replicas, math.floor(fleet.running * config.max_step_factor))
        return max(fleet.target, min(wanted, ceiling))

    def _enough(self, load: ModelLoad, fleet: Fleet, now: float) -> int:
        """Replicas that have sufficed for a whole downscale window; 0 when nobody has asked for long enough."""
        silent = load.queued_requests == 0 and load.generations == 0
        if fleet.minimum == 0 and silent and load.idle_s >= self._config.idle_before_zero_s:
            return 0
        largest = self._largest.extreme_since(now - self._downscale_window_s)
        return fleet.target if largest is None else max(1, largest)

    def _note_upscale(self, target: int, fleet: Fleet, now: float) -> None:
        if target > fleet.target and now - self._scaled_down_at <= self._longest_window_s:
            self._downscale_window_s = min(2 * self._downscale_window_s, self._longest_window_s)
            self._scaled_down_at = -math.inf  # one downscale is regretted once
            self._regretted_at = now

    def _note_downscale(self, target: int, fleet: Fleet, now: float) -> None:
        if now - self._regretted_at > 2 * self._longest_window_s:
            self._downscale_window_s = max(self._config.downscale_stabilization_s, self._downscale_window_s / 2)
            self._regretted_at = now
        if 0 < target < fleet.target:
            self._scaled_down_at = now


class _Window:
    """The least or the largest value of the recent past. Amortised O(1) per value (monotonic queue)."""

    def __init__(self, largest: bool) -> None:
        self._sign = 1 if largest else -1
        self._values: deque[tuple[float, int]] = deque()
        self._since: float | None = None

    def add(self, now: float, value: int, keep_s: float) -> None:
        """Take the value at `now`; values older than `keep_s` seconds are forgotten."""
        if self._since is None:
            self._since = now
        while self._values and self._sign * self._values[-1][1] <= self._sign * value:
            self._values.pop()
        self._values.append((now, value))
        while self._values[0][0] < now - keep_s:
            self._values.popleft()

    def forget(self) -> None:
        """Begin anew: what happened until the next value is not known."""
        self._values.clear()
        self._since = None

    def extreme_since(self, since: float) -> int | None:
        """The extreme of the values taken at `since` or later; None when they are not known that far back."""
        if self._since is None or self._since > since:
            return None
        return next((value for at, value in self._values if at >= since), None)


def _within(target: int, fleet: Fleet) -> int:
    return max(fleet.minimum, min(fleet.maximum, target))
