"""Gauges per engine replica: what its heartbeats say, and what the router makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve_app.core.engine_status import EngineStatus

BREAKER_STATE_VALUES: Mapping[str, int] = {"closed": 0, "half_open": 1, "open": 2}
"""Circuit breaker states as numbers; the higher, the less gets through."""


class ReplicaState(Protocol):
    """One replica's policies as one router sees them (`router.replica.ReplicaSnapshot`)."""

    @property
    def engine_id(self) -> str:
        """The replica's id."""

    @property
    def limit(self) -> int:
        """Generations that it should hold, for all routers."""

    @property
    def ramp_fraction(self) -> float:
        """Part of the limit that slow start gives it, 0 to 1."""

    @property
    def breaker(self) -> str:
        """A key of `BREAKER_STATE_VALUES`."""

    @property
    def ejected(self) -> bool:
        """Whether it is out of service for slowness."""

    @property
    def in_flight(self) -> int:
        """Attempts that this router has there."""


_REPORTED: Mapping[str, tuple[str, Callable[[EngineStatus], float]]] = {
    "ready": ("1 when the engine's model is loaded and healthy.", lambda status: status.ready),
    "running": ("Requests in the engine's running batch.", lambda status: status.load.running),
    "waiting": ("Requests queued inside the engine.", lambda status: status.load.waiting),
    "kv_cache_usage": ("Fraction of the engine's KV cache in use, 0 to 1.", lambda status: status.load.kv_cache_usage),
    "capacity": ("Generations that the replica admits at once.", lambda status: status.capacity),
    "generations": ("Generations that the replica runs now.", lambda status: status.generations),
}
_JUDGED: Mapping[str, tuple[str, Callable[[ReplicaState], float]]] = {
    "limit": ("Generations that the replica should hold, for all routers.", lambda replica: replica.limit),
    "ramp_fraction": ("Part of its limit that slow start gives the replica.", lambda replica: replica.ramp_fraction),
    "breaker_state": (
        "Circuit breaker of the replica: 0 closed, 1 half-open, 2 open.",
        lambda replica: BREAKER_STATE_VALUES[replica.breaker],
    ),
    "ejected": ("1 while the replica is out of service for slowness.", lambda replica: replica.ejected),
    "in_flight": ("Requests that this router has at the replica.", lambda replica: replica.in_flight),
}


class EngineGauges(Collector):
    """Shows what was set last, and only that: a replica that is gone leaves no series behind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.statuses: Sequence[EngineStatus] = ()
        """Newest heartbeats of all models' replicas."""
        self.judged: Mapping[str, Sequence[ReplicaState]] = {}
        """The router's view of each model's replicas."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """One family per gauge, with a sample per replica."""
        statuses, judged = self.statuses, self.judged
        for name, (documentation, reported) in _REPORTED.items():
            family = _family(name, documentation)
            for status in statuses:
                family.add_metric((status.model, status.engine_id), reported(status))
            yield family
        for name, (documentation, value) in _JUDGED.items():
            family = _family(name, documentation)
            for model, replicas in judged.items():
                for replica in replicas:
                    family.add_metric((model, replica.engine_id), value(replica))
            yield family


def _family(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"serve_app_engine_{name}", documentation, labels=("model", "engine"))
