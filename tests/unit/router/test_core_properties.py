"""Any interleaving of what may happen keeps the router's promises."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import EngineFailed, EngineLost, InvalidRequest
from serve_app.core.request import Priority
from serve_app.router.config import RouterConfig
from serve_app.router.core import RouterCore
from serve_app.router.messages import (
    AttemptFailed,
    Dispatch,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    EngineReported,
    Fail,
    Offer,
    ReplicasListed,
    Tick,
    Withdraw,
)
from serve_app.telemetry.stream_metrics import RequeueReason

MODEL = "m"
ENGINES = ("a", "b", "c")
CAPACITY = 3
pick_any = st.integers(0, 1_000_000)


class RouterMachine(RuleBasedStateMachine):
    """Drives the core as the async shell does; `running` is what the shell believes to be dispatched."""

    def __init__(self) -> None:
        super().__init__()
        bands = {band: {"requests": 5, "tokens": 300} for band in ("interactive", "default", "batch")}
        config = RouterConfig(admission={"bands": bands, "queue_timeout_s": 20}, failover={"drain_handover_s": 10})
        self.core = RouterCore([MODEL], config, random.Random(7))
        self.now = 0.0
        self.next_id = 1
        self.offered: set[int] = set()
        self.ended: set[int] = set()
        self.running: dict[int, tuple[int, str]] = {}
        self.received: dict[int, int] = {}
        """Output tokens over all attempts."""
        self.deadlines: dict[int, float] = {}
        self.continuable: dict[int, bool] = {}
        self.listed: frozenset[str] = frozenset()

    def tell(self, happened) -> None:
        for command in self.core.handle(happened, self.now):
            if isinstance(command, Dispatch):
                assert command.stream_id in self.offered - self.ended
                assert command.stream_id not in self.running, "dispatched twice at once"
                assert command.engine_id in self.listed, "dispatched to a replica that is not there"
                received = self.received.setdefault(command.stream_id, 0)
                assert command.replay == (received > 0), "what was received must not be generated again"
                assert not received or self.continuable[command.stream_id], "continued what cannot be"
                assert self.now < self.deadlines[command.stream_id], "dispatched after its deadline"
                self.running[command.stream_id] = (command.attempt, command.engine_id)
            elif isinstance(command, Withdraw):
                assert self.running.pop(command.stream_id)[0] == command.attempt
            elif isinstance(command, Fail):
                self.end(command.stream_id, completed=False)

    def end(self, stream_id: int, completed: bool) -> None:
        assert stream_id not in self.ended, "ended twice"
        self.ended.add(stream_id)
        self.running.pop(stream_id, None)
        self.tell(Ended(stream_id, self.received.get(stream_id, 0), completed))

    def one_running(self, number: int) -> int | None:
        return sorted(self.running)[number % len(self.running)] if self.running else None

    @rule(
        tokens=st.integers(1, 200),
        patience=st.one_of(st.none(), st.floats(0.1, 30)),
        tenant=st.sampled_from(("x", "y")),
        priority=st.sampled_from(Priority),
        continuable=st.booleans(),
    )
    def offer(self, tokens, patience, tenant, priority, continuable):
        stream_id, self.next_id = self.next_id, self.next_id + 1
        self.offered.add(stream_id)
        self.deadlines[stream_id] = float("inf") if patience is None else self.now + patience
        self.continuable[stream_id] = continuable
        deadline = None if patience is None else self.now + patience
        self.tell(Offer(stream_id, MODEL, tokens, 10, deadline, tenant, priority, continuable))

    @rule(ids=st.frozensets(st.sampled_from(ENGINES)))
    def list_replicas(self, ids):
        self.listed = ids
        self.tell(ReplicasListed(MODEL, ids))

    @rule(engine=st.sampled_from(ENGINES), ready=st.booleans(), routers=st.integers(1, 4), steps=st.integers(0, 3))
    def report(self, engine, ready, routers, steps):
        load = EngineLoad(running=1, steps=steps, generated_tokens=steps * 1000)
        self.tell(EngineReported(EngineStatus(engine, MODEL, load, CAPACITY, 0, routers, ready, 0)))

    @rule(engine=st.sampled_from(ENGINES))
    def lose(self, engine):
        self.tell(EngineGone(engine, EngineLost("gone")))

    @rule(number=pick_any, tokens=st.integers(1, 300))
    def accept(self, number, tokens):
        if (stream_id := self.one_running(number)) is not None:
            self.tell(EngineAccepted(stream_id, self.running[stream_id][0], tokens))

    @rule(number=pick_any, tokens=st.integers(1, 20))
    def stream_tokens(self, number, tokens):
        if (stream_id := self.one_running(number)) is not None:
            self.received[stream_id] += tokens
            self.core.tokens_received(stream_id, tokens, self.now)

    @rule(number=pick_any, stale=st.booleans())
    def refuse(self, number, stale):
        if (stream_id := self.one_running(number)) is not None and self.received[stream_id] == 0:
            before = dict(self.running)
            self.tell(DispatchRefused(stream_id, before[stream_id][0] - stale, RequeueReason.ENGINE_FULL))
            assert not stale or self.running == before, "an older attempt's refusal counted"

    @rule(number=pick_any, stale=st.booleans(), engines_fault=st.booleans())
    def fail_attempt(self, number, stale, engines_fault):
        if (stream_id := self.one_running(number)) is not None:
            before = dict(self.running)
            error = EngineFailed("raised") if engines_fault else InvalidRequest("wrong")
            self.tell(AttemptFailed(stream_id, before[stream_id][0] - stale, error))
            assert not stale or self.running == before, "an older attempt's failure counted"
            assert stale or engines_fault or stream_id in self.ended, "a wrong request was tried again"

    @rule(number=pick_any, completed=st.booleans())
    def finish(self, number, completed):
        if (stream_id := self.one_running(number)) is not None:
            self.end(stream_id, completed)

    @rule(number=pick_any)
    def cancel_waiting(self, number):
        waiting = sorted(self.offered - self.ended - set(self.running))
        if waiting:
            self.end(waiting[number % len(waiting)], completed=False)

    @rule(seconds=st.floats(0.05, 15))
    def tick(self, seconds):
        self.now += seconds
        self.tell(Tick())

    @invariant()
    def every_stream_is_in_exactly_one_place(self):
        core = self.core.model(MODEL)
        queued, parked = list(core.queue), list(core._parked)
        assert len(queued) == len(set(queued))
        places = [set(queued), set(parked), set(self.running)]
        assert set.union(*places) == self.offered - self.ended
        assert sum(map(len, places)) == len(self.offered - self.ended)

    @invariant()
    def leases_match_what_runs(self):
        core = self.core.model(MODEL)
        for view in core.pool.views():
            mine = [s for s, (_, engine) in self.running.items() if engine == view.engine_id]
            assert view.in_flight == len(mine)
            assert view.in_flight <= CAPACITY
            if not mine:
                assert view.outstanding_tokens == 0
        for snapshot in core.policies.snapshot(self.now):
            mine = [s for s, (_, engine) in self.running.items() if engine == snapshot.engine_id]
            assert snapshot.in_flight == len(mine)

    @invariant()
    def repeats_stay_within_their_budget(self):
        core = self.core.model(MODEL)
        taken = [s.budget_tokens for s in core.streams.values() if s.budget_tokens is not None]
        assert core.budget.repeated == sum(taken)
        assert core.budget._in_flight == sum(s.leased_tokens for s in core.streams.values() if s.engine_id is not None)

    @invariant()
    def nobody_waits_while_an_engine_has_room(self):
        core = self.core.model(MODEL)
        if len(core.queue):
            # The slow start of a replica makes room as it ages, which is acted upon with the next tick.
            self.tell(Tick())
            assert not len(core.queue) or not core.candidates(self.now)


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
