"""Any interleaving of reports, attempts and results keeps the promises of the replica policies."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.config import ReplicaPoliciesConfig
from serve_app.router.decisions.replica_policies import (
    AttemptResult,
    Permit,
    ReplicaPolicies,
)

ENGINES = ("a", "b", "c", "d", "e")
CAPACITY = 8
STALE_S = ReplicaPoliciesConfig().stale_after_s
pick_any = st.integers(0, 1_000_000)


class PoliciesMachine(RuleBasedStateMachine):
    """Drives the policies as a router does; `held` is the naive model: the permits that are not settled."""

    def __init__(self) -> None:
        super().__init__()
        self.policies = ReplicaPolicies(ReplicaPoliciesConfig(), random.Random(3))
        self.now = 0.0
        self.held: list[Permit] = []
        self.status: dict[str, EngineStatus] = {}
        self.reported_at: dict[str, float] = {}
        self.report_all(0)

    def in_flight(self, engine_id: str) -> int:
        return sum(p.engine_id == engine_id for p in self.held)

    def one_held(self, number: int) -> Permit | None:
        return self.held[number % len(self.held)] if self.held else None

    def tell(self, engine_id: str, load: EngineLoad, ready: bool = True, routers: int = 1) -> None:
        status = EngineStatus(engine_id, "m", load, CAPACITY, self.in_flight(engine_id), routers, ready, 0)
        self.status[engine_id] = status
        self.reported_at[engine_id] = self.now
        self.policies.reported(status, self.now)

    @rule(steps=st.integers(0, 50))
    def report_all(self, steps):
        for engine_id in ENGINES:
            load = self.status[engine_id].load if engine_id in self.status else EngineLoad()
            running = self.in_flight(engine_id)
            more = replace(load, steps=load.steps + steps, generated_tokens=load.generated_tokens + steps * running)
            self.tell(engine_id, replace(more, running=running, waiting=0, kv_cache_usage=0.1))

    @rule(
        engine=st.sampled_from(ENGINES),
        running=st.integers(0, 8),
        waiting=st.integers(0, 8),
        kv=st.floats(0, 1),
        tokens=st.integers(0, 2000),
        ready=st.booleans(),
        routers=st.integers(1, 3),
    )
    def report(self, engine, running, waiting, kv, tokens, ready, routers):
        self.tell(engine, EngineLoad(running, waiting, kv, tokens, tokens), ready, routers)

    @rule(engine=st.sampled_from(ENGINES))
    def forget(self, engine):
        self.policies.forget(engine)
        self.status.pop(engine, None)
        for permit in [p for p in self.held if p.engine_id == engine]:
            self.held.remove(permit)
            self.policies.settled(permit, AttemptResult.LOST, self.now)

    @rule(engine=st.sampled_from(ENGINES), times=st.integers(1, 8))
    def send(self, engine, times):
        for _ in range(times):
            if self.policies.allowance(engine, self.in_flight(engine), self.now) > 0:
                self.held.append(self.policies.dispatched(engine, self.now, 100))

    @rule(number=pick_any, ttft_s=st.sampled_from([0.1, 0.2, 3.0]))
    def first_token(self, number, ttft_s):
        if (permit := self.one_held(number)) is not None:
            self.policies.first_token(permit, ttft_s, 100, self.now)

    @rule(number=pick_any, result=st.sampled_from(AttemptResult), tpot_s=st.sampled_from([None, 0.01, 0.5]))
    def settle(self, number, result, tpot_s):
        if (permit := self.one_held(number)) is not None:
            self.held.remove(permit)
            self.policies.settled(permit, result, self.now, tpot_s)
            self.policies.settled(permit, result, self.now, tpot_s)

    @rule(engine=st.sampled_from(ENGINES), result=st.sampled_from(AttemptResult))
    def settle_all_of_one(self, engine, result):
        for permit in [p for p in self.held if p.engine_id == engine]:
            self.held.remove(permit)
            self.policies.settled(permit, result, self.now)

    @rule(seconds=st.floats(0.01, 5.0))
    def pass_time(self, seconds):
        self.now += seconds
        self.policies.watch(self.now)

    def ready(self) -> list[str]:
        return [e for e, s in self.status.items() if s.ready]

    @invariant()
    def every_reservation_is_released_once(self):
        for shown in self.policies.snapshot(self.now):
            assert shown.in_flight == self.in_flight(shown.engine_id)

    @invariant()
    def limits_stay_between_one_and_the_capacity(self):
        for shown in self.policies.snapshot(self.now):
            assert 1 <= shown.limit <= CAPACITY
            assert 0.0 <= shown.ramp_fraction <= 1.0

    @invariant()
    def nothing_is_sent_beyond_the_capacity(self):
        for engine_id in self.status:
            assert self.in_flight(engine_id) <= CAPACITY

    @invariant()
    def at_most_half_of_the_ready_replicas_are_out_of_service(self):
        self.policies.watch(self.now)
        shown = {s.engine_id: s for s in self.policies.snapshot(self.now)}
        out = [e for e in self.ready() if shown[e].ejected or shown[e].breaker is not BreakerState.CLOSED]
        assert len(out) <= len(self.ready()) // 2

    @invariant()
    def live_pool_with_nothing_in_flight_can_be_used(self):
        self.policies.watch(self.now)
        live = [e for e in self.ready() if self.now - self.reported_at[e] <= STALE_S]
        if live and not self.held and not any(self.status[e].generations for e in live):
            assert any(self.policies.allowance(e, 0, self.now) > 0 for e in live)


TestPoliciesMachine = PoliciesMachine.TestCase
TestPoliciesMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
