"""One run: a workload, a policy and a seed make a world; what was measured in it comes back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.overload.call_engine import CallEngine, CallProfile
from benchmarks.overload.clients import MAX_RETRIES, Client
from benchmarks.overload.cluster import Backend, Cluster
from benchmarks.overload.event_loop import EventLoop
from benchmarks.overload.jobs import Ask, JobListener
from benchmarks.overload.measure import Measured, Scope, measure
from benchmarks.overload.policies import build_policy
from benchmarks.overload.policy import Objective, Policy, Surroundings
from benchmarks.overload.step_engine import EngineProfile, StepEngine

UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class Arrival:
    """When somebody asks for what."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    tenant: str = "anonymous"


@dataclass(frozen=True)
class Scenario:
    """The world of a workload, but for the policy."""

    arrivals: Callable[[random.Random], Iterator[Arrival]]
    end_s: float
    """Virtual seconds that a run lasts: long enough for the last stream to end."""
    replicas: int = 4
    engine: EngineProfile | CallProfile = EngineProfile()  # noqa: RUF009  # a frozen value, safe to share
    engine_cap: int = 64
    """Generations that an engine replica of ours admits at once, running or waiting in the engine."""
    network_s: tuple[float, float] = (0.002, 0.005)
    """Bounds of one-way delays between client and router, and between router and engine."""
    load_s: float = 0.0
    """Seconds that a replica takes to start and load its model."""
    faults: Callable[[Cluster], None] | None = None
    """Schedules what goes wrong; called once the replicas are up."""
    max_retries: int = MAX_RETRIES
    """Of the clients' SDK."""
    patience_s: float | None = None
    scope: Scope = Scope()  # noqa: RUF009  # a frozen value, safe to share
    objective: Objective = Objective()  # noqa: RUF009  # a frozen value, safe to share
    watched: str | None = None
    router: dict[str, Any] = field(default_factory=dict)
    """Settings of our router that differ from its defaults, because this deployment's operator would set them."""


class _Front:
    """Breaks the circle: clients need a server before the policy exists."""

    policy: Policy

    def offered(self, request: Any) -> None:
        self.policy.offered(request)

    def left(self, request: Any) -> None:
        self.policy.left(request)


def simulate(scenario: Scenario, policy_name: str, seed: int) -> Measured:
    """Run it in virtual time. The same seed brings the same arrivals, lengths and fates under every policy."""
    loop = EventLoop()
    engine = scenario.engine

    def make(at: EventLoop, listener: JobListener) -> Backend:
        return CallEngine(engine, seed, at, listener) if isinstance(engine, CallProfile) else StepEngine(
            engine, at, listener
        )  # fmt: skip

    cap = scenario.engine_cap if policy_name == "serve_app" else UNBOUNDED
    cluster = Cluster(loop, random.Random(f"{seed}/network"), make, cap, scenario.network_s, scenario.load_s)
    given = Surroundings(loop, cluster, random.Random(f"{seed}/policy"), scenario.objective)
    front = _Front()
    client = Client(
        loop, front, random.Random(f"{seed}/clients"), scenario.network_s, scenario.max_retries, scenario.patience_s
    )
    front.policy = build_policy(policy_name, given, engine, scenario.router)
    cluster.connect(front.policy)
    for _ in range(scenario.replicas):
        cluster.add()
    if scenario.faults is not None:
        scenario.faults(cluster)
    asks: list[Ask] = []
    for arrival in scenario.arrivals(random.Random(f"{seed}/arrivals")):
        ask = Ask(len(asks), arrival.at_s, arrival.prompt_tokens, arrival.output_tokens, arrival.tenant)
        asks.append(ask)
        loop.at(arrival.at_s, client.ask, ask)
    loop.run(scenario.end_s)
    return measure(asks, cluster, scenario.scope, scenario.objective, scenario.watched)
