"""Replicas under the policies of one router. No clock runs: tests let time pass."""

from __future__ import annotations

import random

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.config import ReplicaPoliciesConfig
from serve_app.router.decisions.replica_policies import (
    AttemptResult,
    Permit,
    ReplicaPolicies,
    ReplicaSnapshot,
)

CAPACITY = 64
WARM = 10_000
OPEN, PROBE, EJECTED, BROKEN = "open", "probe", "ejected", "broken"


def status(
    engine_id: str,
    generated: int = WARM,
    capacity: int = CAPACITY,
    routers: int = 1,
    generations: int = 0,
    ready: bool = True,
    running: int = 0,
    waiting: int = 0,
    steps: int = 0,
) -> EngineStatus:
    load = EngineLoad(running, waiting, 0.1, steps, generated)
    return EngineStatus(engine_id, "m", load, capacity, generations, routers, ready, 2048)


class Pool:
    """A router's policies, driven with a clock of its own."""

    def __init__(self, *engine_ids: str, generated: int = WARM, routers: int = 1) -> None:
        self.policies = ReplicaPolicies(ReplicaPoliciesConfig(), random.Random(5))
        self.now = 0.0
        self.ids = engine_ids
        self.routers = routers
        for engine_id in engine_ids:
            self.policies.reported(status(engine_id, generated, routers=routers), self.now)

    def allowance(self, engine_id: str, in_flight: int = 0) -> int:
        return self.policies.allowance(engine_id, in_flight, self.now)

    def send(self, engine_id: str, prompt_tokens: int = 100) -> Permit:
        return self.policies.dispatched(engine_id, self.now, prompt_tokens)

    def first_token(self, permit: Permit, ttft_s: float) -> None:
        self.policies.first_token(permit, ttft_s, 100, self.now)

    def settle(self, permit: Permit, result: AttemptResult = AttemptResult.SUCCEEDED) -> None:
        self.policies.settled(permit, result, self.now)

    def serve(self, engine_id: str, times: int = 1, ttft_s: float = 0.2, tpot_s: float | None = 0.01) -> None:
        for _ in range(times):
            permit = self.send(engine_id)
            self.first_token(permit, ttft_s)
            self.policies.settled(permit, AttemptResult.SUCCEEDED, self.now, tpot_s)

    def fail(self, engine_id: str, times: int, result: AttemptResult = AttemptResult.FAILED) -> None:
        for permit in [self.send(engine_id) for _ in range(times)]:
            self.settle(permit, result)

    def pass_time(self, seconds: float, serving: tuple[str, ...] = ()) -> None:
        """Time with heartbeats and reviews, during which `serving` replicas answer ten requests a second."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            for engine_id in self.ids:
                self.policies.reported(status(engine_id, routers=self.routers), self.now)
            for engine_id in serving:
                self.serve(engine_id)
            self.policies.watch(self.now)

    def standing(self, engine_id: str) -> str:
        """In service, out of it for slowness or for failures, or to be probed: from what may be sent and what metrics
        show."""
        may_be_sent = self.allowance(engine_id, self.snapshot(engine_id).in_flight) > 0
        shown = self.snapshot(engine_id)
        if not shown.ejected and shown.breaker is BreakerState.CLOSED:
            return OPEN
        return PROBE if may_be_sent else EJECTED if shown.ejected else BROKEN

    def snapshot(self, engine_id: str) -> ReplicaSnapshot:
        return next(s for s in self.policies.snapshot(self.now) if s.engine_id == engine_id)

    def make_slow(self, engine_id: str) -> None:
        for other in self.ids:
            self.serve(other, times=8, ttft_s=2.0 if other == engine_id else 0.2)
        self.pass_time(2.2)
