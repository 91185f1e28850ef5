"""Any interleaving of what may happen keeps the router's promises.

Twice: by Hypothesis, which shrinks what it finds, and by long random histories from fixed seeds.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import ChannelLost, EngineFailed, InvalidRequest, NotContinuable
from serve_app.core.request import Priority
from tests.unit.router.decisions.router_world import World
from tests.unit.router.decisions.router_world_bounds import ENGINES, TENANTS

EXAMPLES = 1000
STEPS = 20
SEEDS = 1000
EVENTS_OF_A_SEED = 100

pick_any = st.integers(0, 1000)
HEDGING = ("off", "elsewhere", "same_replica")
ERRORS = (EngineFailed("raised"), ChannelLost("gap"), InvalidRequest("wrong"), NotContinuable("cannot"))


def load_of(number: int) -> EngineLoad:
    """Any load of an engine: cold or warm, idle or full, stepping or not."""
    steps, rest = number % 4, number // 4
    return EngineLoad(
        running=rest % 3, waiting=rest % 7, kv_cache_usage=rest % 11 / 10, steps=steps, generated_tokens=steps * 1000
    )


class RouterMachine(RuleBasedStateMachine):
    """Drives the core as the async shell does; the world objects to whatever breaks a promise."""

    world: World

    @initialize(
        when_full=st.sampled_from(("refuse", "wait")),
        hedging=st.sampled_from(HEDGING),
        mixed=st.booleans(),
        up=st.booleans(),
    )
    def start(self, when_full, hedging, mixed, up):
        self.world = World(when_full, hedging, mixed)
        if up:
            self.world.list_replicas(frozenset(ENGINES))
            for engine in ENGINES:
                self.world.report(engine, EngineLoad(running=1, steps=3, generated_tokens=10**6), 1, True)

    def running(self, number: int) -> int:
        return sorted(self.world.running)[number % len(self.world.running)]

    def hedged(self, number: int) -> int:
        return sorted(self.world.seconds)[number % len(self.world.seconds)]

    @rule(
        tokens=st.integers(1, 200),
        patience_s=st.none() | st.floats(0.1, 60),
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(Priority),
        max_tokens=st.none() | st.integers(1, 50),
        continuable=st.booleans(),
    )
    def offer(self, tokens, patience_s, tenant, priority, max_tokens, continuable):
        self.world.offer(tokens, patience_s, tenant, priority, max_tokens, continuable)

    @rule(engines=st.frozensets(st.sampled_from(ENGINES)))
    def list_replicas(self, engines):
        self.world.list_replicas(engines)

    @rule(engine=st.sampled_from(ENGINES), load=pick_any, routers=st.integers(1, 3), ready=st.booleans())
    def report(self, engine, load, routers, ready):
        self.world.report(engine, load_of(load), routers, ready, load % 4)

    @rule()
    def all_are_well(self):
        self.world.list_replicas(frozenset(ENGINES))
        for engine in ENGINES:
            self.world.report(engine, EngineLoad(running=1, steps=3, generated_tokens=10**6), 1, True)

    @rule(engine=st.sampled_from(ENGINES), dead=st.booleans())
    def lose(self, engine, dead):
        self.world.lose(engine, dead)

    @precondition(lambda self: self.world.running)
    @rule(number=pick_any, tokens=st.integers(1, 300))
    def accept(self, number, tokens):
        self.world.accept(self.running(number), tokens)

    @precondition(lambda self: self.world.running)
    @rule(number=pick_any, tokens=st.integers(1, 40))
    def give_tokens(self, number, tokens):
        self.world.give_tokens(self.running(number), tokens)

    @rule(tokens=st.integers(1, 40))
    def give_all_tokens(self, tokens):
        started = sorted(self.world.running)
        for stream_id in started:
            self.world.give_tokens(stream_id, tokens, last_of_batch=stream_id == started[-1])

    @precondition(lambda self: self.world.seconds)
    @rule(number=pick_any, tokens=st.integers(1, 300))
    def accept_second(self, number, tokens):
        self.world.accept_second(self.hedged(number), tokens)

    @precondition(lambda self: self.world.seconds)
    @rule(number=pick_any, tokens=st.integers(1, 40))
    def second_wins(self, number, tokens):
        self.world.second_wins(self.hedged(number), tokens)

    @precondition(lambda self: self.world.seconds)
    @rule(number=pick_any, error=st.none() | st.sampled_from(ERRORS))
    def lose_second(self, number, error):
        self.world.lose_second(self.hedged(number), error)

    @precondition(lambda self: self.world.running)
    @rule(number=pick_any, stale=st.booleans())
    def refuse(self, number, stale):
        self.world.refuse(self.running(number), stale)

    @precondition(lambda self: self.world.running)
    @rule(number=pick_any, stale=st.booleans(), error=st.sampled_from(ERRORS))
    def fail_attempt(self, number, stale, error):
        self.world.fail_attempt(self.running(number), stale, error)

    @precondition(lambda self: self.world.clients)
    @rule(number=pick_any, completed=st.booleans())
    def end(self, number, completed):
        stream_id = sorted(self.world.clients)[number % len(self.world.clients)]
        self.world.end(stream_id, completed and stream_id in self.world.running)

    @rule(seconds=st.floats(0.02, 1.0))
    def tick(self, seconds):
        self.world.tick(seconds)

    @rule(seconds=st.floats(1.0, 60.0))
    def sleep(self, seconds):
        self.world.tick(seconds)

    @rule(seconds=st.floats(100.0, 4000.0))
    def sleep_long(self, seconds):
        self.world.tick(seconds)

    @invariant()
    def promises_are_kept(self):
        self.world.check()


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)


def one_event(world: World, rng: random.Random) -> None:
    """Something happens; what keeps streams going is more likely than what ends them."""
    running, clients = sorted(world.running), sorted(world.clients)
    kind = rng.choices(
        (
            "offer",
            "accept",
            "tokens",
            "tick",
            "report",
            "steps",
            "fail",
            "refuse",
            "end",
            "sleep",
            "list",
            "lose",
            "two",
        ),
        (20, 12, 15, 15, 12, 8, 4, 3, 4, 3, 2, 2, 10),
    )[0]
    if kind == "offer":
        patience_s = rng.choice((None, None, rng.uniform(0.1, 60.0)))
        max_tokens = rng.choice((None, rng.randint(1, 50)))
        priority = rng.choice(list(Priority))
        world.offer(rng.randint(1, 200), patience_s, rng.choice(TENANTS), priority, max_tokens, rng.random() < 0.8)
    elif kind == "tick":
        world.tick(rng.uniform(0.02, 1.0))
    elif kind == "sleep":
        world.tick(rng.choice((rng.uniform(1.0, 10.0), rng.uniform(10.0, 60.0), rng.uniform(60.0, 4000.0))))
    elif kind == "report":
        number = rng.randrange(1000)
        world.report(rng.choice(ENGINES), load_of(number), rng.choice((1, 1, 2)), rng.random() < 0.9, number % 4)
    elif kind == "steps":
        for engine in ENGINES:
            load = EngineLoad(running=1, steps=rng.randrange(1, 1000), generated_tokens=10**6)
            world.report(engine, load, 1, True)
    elif kind == "list":
        world.list_replicas(frozenset(engine for engine in ENGINES if rng.random() < 0.8))
    elif kind == "lose":
        world.lose(rng.choice(ENGINES), rng.random() < 0.5)
    elif kind == "end" and clients:
        stream_id = rng.choice(clients)
        world.end(stream_id, stream_id in running and rng.random() < 0.7)
    elif kind == "two":
        if world.seconds:
            event_of_a_second_attempt(world, rng)
    elif running:
        stream_id = rng.choice(running)
        if kind == "accept":
            world.accept(stream_id, rng.randint(1, 300))
        elif kind == "tokens":
            some = rng.choice((running, [one for one in running if one not in world.seconds], [stream_id]))
            for started in some:
                world.give_tokens(started, rng.randint(1, 10), last_of_batch=started == some[-1])
        elif kind == "refuse":
            world.refuse(stream_id, rng.random() < 0.3)
        elif kind == "fail":
            world.fail_attempt(stream_id, rng.random() < 0.2, rng.choice(ERRORS))


def event_of_a_second_attempt(world: World, rng: random.Random) -> None:
    stream_id = rng.choice(sorted(world.seconds))
    kind = rng.choices(("accept", "win", "fail", "refuse", "engine dies"), (8, 4, 2, 1, 1))[0]
    if kind == "accept":
        world.accept_second(stream_id, rng.randint(1, 300))
    elif kind == "win":
        world.second_wins(stream_id, rng.randint(1, 10))
    elif kind == "engine dies":
        world.lose(rng.choice((world.running, world.seconds))[stream_id].engine, True)
    else:
        world.lose_second(stream_id, rng.choice(ERRORS) if kind == "fail" else None)


@pytest.mark.parametrize("when_full", ["refuse", "wait"])
@pytest.mark.parametrize("part", range(5))
def test_long_random_histories_keep_the_promises(part, when_full):
    hedges = 0
    for seed in range(part * SEEDS // 10, (part + 1) * SEEDS // 10):
        rng = random.Random(f"{seed} {when_full}")
        world = World(when_full, HEDGING[seed % len(HEDGING)], mixed=rng.random() < 0.3)
        world.list_replicas(frozenset(ENGINES))
        for _ in range(EVENTS_OF_A_SEED):
            one_event(world, rng)
            world.check()
        hedges += world.hedges
    assert hedges > SEEDS // 10, "histories without second attempts tell nothing of them"
