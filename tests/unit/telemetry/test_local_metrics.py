"""The cheap counter and histogram say what prometheus_client's own would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from serve_app.telemetry.local_metrics import LocalCounter, LocalHistogram

BOUNDS = (0.01, 0.1, 1.0)


def without_created(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.one_of(st.floats(0.0, 3.0), st.sampled_from(BOUNDS))))
def test_histogram_text_equals_that_of_prometheus_client(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    cell = LocalHistogram("x_seconds", "Help.", ("model",), BOUNDS, ours).cell("m")
    reference = Histogram("x_seconds", "Help.", ("model",), buckets=BOUNDS, registry=theirs).labels("m")

    for value in values:
        cell.observe(value)
        reference.observe(value)

    assert without_created(ours) == without_created(theirs)


def test_counter_is_exposed_as_total_with_its_labels() -> None:
    registry = CollectorRegistry()
    counter = LocalCounter("tokens", "Help.", ("model",), registry)

    counter.cell("a").value += 3
    counter.cell("a").value += 4

    assert registry.get_sample_value("tokens_total", {"model": "a"}) == 7


def test_cells_of_different_labels_count_apart() -> None:
    registry = CollectorRegistry()
    histogram = LocalHistogram("x_seconds", "Help.", ("model",), BOUNDS, registry)

    histogram.cell("a").observe(0.05)
    histogram.cell("b").observe(5.0)

    assert registry.get_sample_value("x_seconds_bucket", {"model": "a", "le": "0.1"}) == 1
    assert registry.get_sample_value("x_seconds_bucket", {"model": "b", "le": "0.1"}) == 0
    assert registry.get_sample_value("x_seconds_count", {"model": "b"}) == 1
