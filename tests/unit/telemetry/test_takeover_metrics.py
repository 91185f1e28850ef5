"""A stream that changes its router is counted once, and nothing of it twice."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from serve_app.core.outcome import RequestOutcome
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.reasons import RequeueReason, ResumedFrom

MODEL = "smol"


class Counted:
    """Metrics of one router with a short way to read them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ServeMetrics(self.registry, [MODEL])

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"serve_app_{name}", {"model": MODEL, **labels})

    def outcomes(self) -> float:
        return sum(self("requests_total", outcome=outcome) or 0 for outcome in RequestOutcome)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_who_gives_a_stream_up_counts_no_outcome_and_has_it_no_longer(counted: Counted) -> None:
    stream = counted.metrics.offered(MODEL, 0.0)
    stream.dispatched(0.0, "e1")
    stream.accepted(10)
    stream.on_tokens(5, 1.0)
    stream.handed_over()
    stream.settled(RequestOutcome.CANCELLED, 2.0)

    assert counted.outcomes() == 0
    assert counted("concurrent_streams") == 0
    assert counted("connection_drops_total", reason="cancelled") == 0
    assert counted("wasted_tokens_total", reason="cancelled") == 0


def test_who_goes_on_counts_its_outcome_and_tokens_but_neither_prompt_nor_times(counted: Counted) -> None:
    stream = counted.metrics.offered(MODEL, 0.0)
    stream.taken_over(ResumedFrom.ROUTER, 10, 5, 0.0)
    stream.dispatched(1.0, "e1", replay=True)
    stream.accepted(10)
    stream.on_tokens(1, 2.0)
    stream.on_tokens(1, 3.0)
    stream.settled(RequestOutcome.COMPLETED, 4.0, output_tokens=7)

    assert counted("requests_total", outcome="completed") == counted.outcomes() == 1
    assert counted("output_tokens_total") == 2
    assert counted("prompt_tokens_total") == 0
    for name in ("time_to_first_token", "time_per_output_token", "stream_duration"):
        assert counted(f"{name}_seconds_count") == 0
    assert counted("queue_wait_seconds_count", band="default") == 0
    assert counted("wasted_tokens_total", reason="taken_over") == stream.repeated_tokens == 15
    assert (stream.output_tokens, stream.ttft_s, stream.tpot_s) == (7, None, None)


def test_what_no_engine_had_taken_is_computed_for_the_first_time(counted: Counted) -> None:
    stream = counted.metrics.offered(MODEL, 0.0)
    stream.taken_over(ResumedFrom.ROUTER, 0, 0, 0.0)
    stream.dispatched(1.0, "e1")
    stream.accepted(10)
    stream.on_tokens(1, 2.0)
    stream.settled(RequestOutcome.COMPLETED, 4.0)

    assert counted("prompt_tokens_total") == 10
    assert counted("wasted_tokens_total", reason="taken_over") == 0
    assert counted("time_to_first_token_seconds_count") == 0


def test_what_is_computed_again_is_counted_once_however_often_it_is_dispatched(counted: Counted) -> None:
    stream = counted.metrics.offered(MODEL, 0.0)
    stream.taken_over(ResumedFrom.ENGINE, 10, 5, 0.0)
    stream.dispatched(1.0, "e1", replay=True)
    stream.requeued(RequeueReason.ENGINE_FULL)
    stream.dispatched(2.0, "e2", replay=True)

    assert counted("wasted_tokens_total", reason="taken_over") == 15


@pytest.mark.parametrize("place", ResumedFrom)
def test_readers_that_come_back_are_counted_by_where_their_stream_was(counted: Counted, place: ResumedFrom) -> None:
    counted.metrics.resumed(place)

    counts = {
        p: counted.registry.get_sample_value("serve_app_resumed_streams_total", {"place": p}) for p in ResumedFrom
    }
    assert counts == {p: float(p is place) for p in ResumedFrom}


def test_what_is_kept_is_shown(counted: Counted) -> None:
    counted.metrics.publish_retained(3, 1000)

    assert counted.registry.get_sample_value("serve_app_retained_streams") == 3
    assert counted.registry.get_sample_value("serve_app_retained_bytes") == 1000
