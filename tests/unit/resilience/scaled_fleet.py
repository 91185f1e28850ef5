"""A fleet in virtual time for the scaling policy: engines as places that requests occupy, cold starts, a queue."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.resilience.scaling import Fleet, ModelLoad, ScalingPolicy

STEP_S = 1.0
REQUEST_TOKENS = 500.0


@dataclass(slots=True)
class ScaledFleet:
    """Follows `policy` second by second.

    A request takes `service_s` alone, and up to (1 + `crowding`) times that in a full replica, as batches do.
    """

    policy: ScalingPolicy
    rng: random.Random
    service_s: float = 10.0
    capacity: int = 10
    crowding: float = 0.0
    load_s: float = 60.0
    minimum: int = 1
    maximum: int = 20
    running: int = 1
    target: int = 1
    now: float = 0.0
    targets: list[int] = field(default_factory=list)
    longest_wait_s: float = 0.0
    _queue: deque[float] = field(default_factory=deque)
    _work_left_s: list[float] = field(default_factory=list)
    _loaded_at: list[float] = field(default_factory=list)
    _busy_at: float = 0.0
    _waiting_since: float | None = None

    def run(self, seconds: float, rate: Callable[[float], float]) -> None:
        """Let `seconds` pass with `rate(now)` arrivals a second (Poisson)."""
        until = self.now + seconds
        while self.now < until:
            self._second(rate(self.now))

    @property
    def changes(self) -> int:
        """How often the target changed."""
        return sum(a != b for a, b in zip(self.targets, self.targets[1:], strict=False))

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def _second(self, rate: float) -> None:
        self.now += STEP_S
        self._queue.extend([self.now] * _poisson(rate * STEP_S, self.rng))
        self._loaded_at.sort()
        while self._loaded_at and self._loaded_at[0] <= self.now:
            self._loaded_at.pop(0)
            self.running += 1
        places = self.running * self.capacity
        fullness = min(1.0, len(self._work_left_s) / places) if places else 0.0
        speed = 1.0 / (1.0 + self.crowding * fullness)
        left = [work - STEP_S * speed for work in self._work_left_s]
        done = sum(work <= 0 for work in left)
        self._work_left_s = [work for work in left if work > 0]
        while self._queue and len(self._work_left_s) < places:
            self.longest_wait_s = max(self.longest_wait_s, self.now - self._queue.popleft())
            self._work_left_s.append(self.service_s)
        self._decide(done)

    def _decide(self, done: int) -> None:
        if self._queue or self._work_left_s:
            self._busy_at = self.now
        if not self._queue:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self.now
        load = ModelLoad(
            queued_requests=len(self._queue),
            queue_tokens=len(self._queue) * REQUEST_TOKENS,
            queue_waiting_s=self.now - self._waiting_since if self._waiting_since is not None else 0.0,
            request_tokens=REQUEST_TOKENS,
            engines=self.running,
            capacity=self.running * self.capacity,
            generations=len(self._work_left_s),
            tokens_per_s=done * REQUEST_TOKENS / STEP_S,
            idle_s=self.now - self._busy_at,
        )
        fleet = Fleet(self.running, self.target, self.minimum, self.maximum)
        target = self.policy.decide(load, fleet, self.now).target
        if target > self.target:
            self._loaded_at += [self.now + self.load_s] * (target - self.target)
        for _ in range(self.target - target):  # Serve calls off what still loads first
            if self._loaded_at:
                self._loaded_at.pop()
            else:
                self.running -= 1
        self.target = target
        self.targets.append(target)


def _poisson(mean: float, rng: random.Random) -> int:
    count, elapsed = 0, rng.expovariate(1.0)
    while elapsed < mean:
        count += 1
        elapsed += rng.expovariate(1.0)
    return count
