"""What Ray's agent is told about a registry."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import Priority
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.replica import ReplicaSnapshot
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.ray_bridge import RayBridge
from serve_app.telemetry.reasons import RefusalReason


class RecordingSink:
    """Keeps what Ray would show, and counts the calls."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.gauges: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.calls = 0

    def add(self, name: str, documentation: str, tags: Mapping[str, str], amount: float) -> None:
        assert amount > 0, "Ray's counters refuse 0"
        key = (name, frozenset(tags.items()))
        self.counters[key] = self.counters.get(key, 0.0) + amount
        self.calls += 1

    def set(self, name: str, documentation: str, tags: Mapping[str, str], value: float) -> None:
        self.gauges[name, frozenset(tags.items())] = value
        self.calls += 1


def tags(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset({"replica": "r1", **labels}.items())


def bridge(registry: CollectorRegistry) -> tuple[RayBridge, RecordingSink]:
    sink = RecordingSink()
    return RayBridge(registry, sink, {"replica": "r1"}), sink


def test_counters_reach_ray_as_differences_that_add_up_to_the_total() -> None:
    registry = CollectorRegistry()
    counter = Counter("requests", "Help.", ["model"], registry=registry).labels("m")
    copier, sink = bridge(registry)

    for amount in (3, 0, 4):
        counter.inc(amount)
        copier.copy()

    assert sink.counters == {("requests_total", tags(model="m")): 7.0}
    assert sink.gauges == {}


def test_gauges_reach_ray_as_values() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("depth", "Help.", registry=registry)
    copier, sink = bridge(registry)

    for value in (5, 2):
        gauge.set(value)
        copier.copy()

    assert sink.gauges == {("depth", tags()): 2.0}


def test_a_histogram_reaches_ray_exactly() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("wait_seconds", "Help.", buckets=[0.1, 1.0], registry=registry)
    copier, sink = bridge(registry)
    for value in (0.05, 0.07, 0.5, 9.0):
        histogram.observe(value)
        copier.copy()

    assert sink.gauges == {
        ("wait_seconds_bucket", tags(le="0.1")): 2.0,
        ("wait_seconds_bucket", tags(le="1.0")): 3.0,
        ("wait_seconds_bucket", tags(le="+Inf")): 4.0,
        ("wait_seconds_count", tags()): 4.0,
        ("wait_seconds_sum", tags()): 9.62,
    }


def test_nothing_is_passed_on_when_nothing_changed() -> None:
    registry = CollectorRegistry()
    Counter("requests", "Help.", registry=registry).inc()
    Gauge("depth", "Help.", registry=registry).set(1)
    copier, sink = bridge(registry)

    copier.copy()
    calls = sink.calls
    copier.copy()

    assert (calls, sink.calls) == (2, 2)


def test_a_gauge_that_left_the_registry_is_shown_as_zero_once() -> None:
    registry = CollectorRegistry()
    ready = Gauge("engine_ready", "Help.", ["engine"], registry=registry)
    ready.labels("e1").set(1)
    copier, sink = bridge(registry)

    copier.copy()
    ready.clear()
    copier.copy()
    copier.copy()

    assert sink.gauges == {("engine_ready", tags(engine="e1")): 0.0}
    assert sink.calls == 2


def test_a_gauge_that_comes_back_is_shown_again() -> None:
    registry = CollectorRegistry()
    ready = Gauge("engine_ready", "Help.", ["engine"], registry=registry)
    copier, sink = bridge(registry)
    for present in (True, False, True):
        ready.clear()
        if present:
            ready.labels("e1").set(1)
        copier.copy()

    assert sink.gauges == {("engine_ready", tags(engine="e1")): 1.0}


def test_what_a_router_tells_of_overload_and_failures_reaches_ray() -> None:
    registry = CollectorRegistry()
    metrics = ServeMetrics(registry, ["m"])
    copier, sink = bridge(registry)
    stream = metrics.offered("m", 0.0)
    stream.refused(RefusalReason.DISPLACED)
    stream.settled(RequestOutcome.QUEUE_FULL, 1.0)
    metrics.set_queue("m", 3, 40, Priority.BATCH)
    metrics.publish_replicas({"m": [ReplicaSnapshot("e1", 6, 0.5, BreakerState.OPEN, True, 2)]})
    copier.copy()

    assert sink.counters["serve_app_refusals_total", tags(model="m", reason="displaced")] == 1
    assert sink.gauges["serve_app_queue_depth", tags(model="m", band="batch")] == 3
    assert sink.gauges["serve_app_engine_breaker_state", tags(model="m", engine="e1")] == 2
    assert sink.gauges["serve_app_engine_limit", tags(model="m", engine="e1")] == 6

    metrics.publish_replicas({})
    copier.copy()
    assert sink.gauges["serve_app_engine_breaker_state", tags(model="m", engine="e1")] == 0
