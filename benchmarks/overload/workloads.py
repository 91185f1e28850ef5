"""The workloads: the world of each row of the table of gates, and one without a gate for comparison."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from benchmarks.overload.arrivals import Phase, bursts, evenly, poisson
from benchmarks.overload.call_engine import CallProfile
from benchmarks.overload.cluster import Cluster
from benchmarks.overload.lengths import OUTPUT_TOKENS, PROMPT_TOKENS
from benchmarks.overload.measure import Scope
from benchmarks.overload.policy import Objective
from benchmarks.overload.simulation import Arrival, Scenario
from benchmarks.overload.step_engine import EngineProfile, StepEngine

ENGINE = EngineProfile()
REPLICA_RPS = ENGINE.requests_per_s(PROMPT_TOKENS.mean, OUTPUT_TOKENS.mean)
"""Requests a second that one replica can complete: the unit of all offered loads here."""
PROMISED = {"first_token_objectives_s": {"default": Objective().ttft_s}}
"""What the operator of these deployments tells our router: the objective that goodput is measured by."""
VICTIM = "victim"
NOISY = "noisy"


@dataclass(frozen=True)
class Workload:
    """A scenario, and for some a reference: the same without what the gate is about, for our policy only."""

    name: str
    title: str
    scenario: Scenario
    reference: Scenario | None = None
    seeds: int = 10


def streams(*phases: Phase, tenant: str = "anonymous", rng: random.Random) -> Iterator[Arrival]:
    """Poisson arrivals of token streams with recorded lengths."""
    for at_s in poisson(phases, rng):
        yield Arrival(at_s, PROMPT_TOKENS.sample(rng), OUTPUT_TOKENS.sample(rng), tenant)


def load(*phases: tuple[float, float], replicas: int) -> tuple[Phase, ...]:
    """Phases of (end in seconds, share of what `replicas` replicas can do)."""
    return tuple(Phase(until_s, share * replicas * REPLICA_RPS) for until_s, share in phases)


# --- the source document's cold start

_DOCUMENT = Scenario(
    arrivals=lambda rng: (Arrival(at_s, 100, 1) for at_s in evenly(2.0, 100)),
    end_s=120.0,
    replicas=1,
    engine=CallProfile(),
    engine_cap=4,
    network_s=(0.0, 0.0),  # the 0.3 s are what the document's caller sees
    max_retries=0,
    objective=Objective(ttft_s=4.0),
    router={"hedging": {"enabled": True, "same_replica": True, "target_s": 4.0}},
)

# --- cold replica

COLD_CALLS = 10
COLD_EXTRA_S = 3.0


def _one_is_cold(cluster: Cluster) -> None:
    replica = cluster.replicas["engine-0"]
    assert isinstance(replica.engine, StepEngine)
    replica.engine.be_cold(COLD_CALLS, COLD_EXTRA_S)


_COLD_REPLICA = Scenario(
    arrivals=lambda rng: streams(*load((60.0, 0.6), replicas=4), rng=rng),
    end_s=180.0,
    faults=_one_is_cold,
    watched="engine-0",
    router=PROMISED,
)

# --- step

STEP_AT_S = 20.0
_STEP = Scenario(
    arrivals=lambda rng: streams(*load((STEP_AT_S, 0.5), (60.0, 2.5), replicas=4), rng=rng),
    end_s=150.0,
    scope=Scope(from_s=STEP_AT_S, to_s=60.0, latency_from_s=STEP_AT_S + 10.0),
    router=PROMISED,
)

# --- retry storm

STORM_FROM_S, STORM_TO_S = 10.0, 70.0
RECOVERY_S = 30.0
_STORM = Scenario(
    arrivals=lambda rng: streams(
        *load((STORM_FROM_S, 0.7), (STORM_TO_S, 5.0), (STORM_TO_S + 2 * RECOVERY_S, 0.7), replicas=2), rng=rng
    ),
    end_s=220.0,
    replicas=2,
    patience_s=15.0,
    scope=Scope(from_s=STORM_TO_S + RECOVERY_S, to_s=STORM_TO_S + 2 * RECOVERY_S),
    router=PROMISED,
)

# --- one of eight replicas ten times slower

SLOW_FROM_S = 20.0


def _one_is_slow(cluster: Cluster) -> None:
    replica = cluster.replicas["engine-0"]
    assert isinstance(replica.engine, StepEngine)
    cluster.loop.at(SLOW_FROM_S, replica.engine.slow_down, 10.0)
    replica.bad_from = SLOW_FROM_S


_SLOW = Scenario(
    arrivals=lambda rng: streams(*load((80.0, 0.6), replicas=8), rng=rng),
    end_s=220.0,
    replicas=8,
    faults=_one_is_slow,
    scope=Scope(from_s=SLOW_FROM_S + 10.0, latency_from_s=SLOW_FROM_S + 10.0),
    watched="engine-0",
    router=PROMISED,
)

# --- replica killed in mid-stream

KILL_AT_S = 30.0
_LOAD_S = 20.0


def _one_dies(cluster: Cluster) -> None:
    cluster.replicas["engine-0"].doomed_at = KILL_AT_S
    cluster.loop.at(KILL_AT_S, cluster.kill, "engine-0")
    cluster.loop.at(KILL_AT_S + _LOAD_S, cluster.add)


_KILLED = Scenario(
    arrivals=lambda rng: streams(*load((60.0, 0.6), replicas=4), rng=rng),
    end_s=180.0,
    faults=_one_dies,
    router=PROMISED,
)

# --- replica that stalls in mid-stream, heartbeats going on: no gate, for comparison

_STALL_S = 30.0


def _one_stalls(cluster: Cluster) -> None:
    replica = cluster.replicas["engine-0"]
    assert isinstance(replica.engine, StepEngine)
    replica.bad_from = KILL_AT_S
    cluster.loop.at(KILL_AT_S, replica.engine.stall, _STALL_S)


_STALLED = replace(_KILLED, faults=_one_stalls)

# --- noisy neighbour: two tenants, each with a right to half of the capacity

_NOISY_FROM_S, _NOISY_UNTIL_S = 15.0, 60.0
_FAIR_SHARE = 0.5
_VICTIM_LOAD = 0.45


def _two_tenants(noisy_share: float, rng: random.Random) -> Iterator[Arrival]:
    victim = streams(*load((_NOISY_UNTIL_S, _VICTIM_LOAD), replicas=4), tenant=VICTIM, rng=rng)
    phases = load((_NOISY_FROM_S, _FAIR_SHARE), (_NOISY_UNTIL_S, noisy_share), replicas=4)
    noisy = streams(*phases, tenant=NOISY, rng=rng)
    return chain(list(victim), noisy)


_NOISY = Scenario(
    arrivals=lambda rng: _two_tenants(10 * _FAIR_SHARE, rng),
    end_s=150.0,
    scope=Scope(latency_from_s=_NOISY_FROM_S + 10.0, tenant=VICTIM),
    router=PROMISED,
)

# --- scale from zero

_FROM_ZERO = Scenario(
    arrivals=lambda rng: (
        Arrival(rng.uniform(0.0, 2.0), PROMPT_TOKENS.sample(rng), OUTPUT_TOKENS.sample(rng)) for _ in range(20)
    ),
    end_s=150.0,
    replicas=0,
    load_s=_LOAD_S,
    objective=Objective(ttft_s=60.0),
)

# --- bursts: no gate, for comparison

_BURSTS = Scenario(
    arrivals=lambda rng: streams(*bursts(0.4 * 4 * REPLICA_RPS, 3.0 * 4 * REPLICA_RPS, 10.0, 2.0, 60.0), rng=rng),
    end_s=150.0,
    router=PROMISED,
)

WORKLOADS = (
    Workload("source_document", "the source document's cold start", _DOCUMENT, seeds=200),
    Workload("cold_replica", "one of 4 replicas cold for 10 calls", _COLD_REPLICA),
    Workload("step", "step 1 to 5 x", _STEP),
    Workload("retry_storm", "5 x for 60 s, then 0.7 x", _STORM),
    Workload("slow_replica", "one of 8 replicas 10 x slower", _SLOW, replace(_SLOW, faults=None)),
    Workload("replica_killed", "replica killed in mid-stream", _KILLED),
    Workload(
        "noisy_neighbour",
        "one tenant at 10 x its share",
        _NOISY,
        replace(_NOISY, arrivals=lambda rng: _two_tenants(_FAIR_SHARE, rng)),
    ),
    Workload("scale_from_zero", "20 requests wait for a model to load", _FROM_ZERO),
    Workload("replica_stalled", "replica stalled for 30 s in mid-stream", _STALLED),
    Workload("bursts", "bursts of 3 x capacity", _BURSTS),
)
