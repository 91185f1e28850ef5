"""What a router replica counts, from the offer of a stream to its settlement."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.outcome import RequestOutcome
from serve_app.telemetry.metrics import ChannelCounts, ServeMetrics
from serve_app.telemetry.stream_metrics import RequeueReason, StreamMetrics

MODEL = "smol"


class Counted:
    """Metrics of one router with a short way to read them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ServeMetrics(self.registry, [MODEL, "other"])

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"serve_app_{name}", {"model": MODEL, **labels})

    def stream(self, now: float = 0.0, choices: int = 1) -> StreamMetrics:
        return self.metrics.offered(MODEL, now, choices)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_ttft_runs_from_the_offer_to_the_first_token(counted: Counted) -> None:
    stream = counted.stream(now=10.0)
    stream.dispatched(12.0)
    stream.on_tokens(1, 13.5)
    stream.on_tokens(1, 20.0)

    assert counted("time_to_first_token_seconds_count") == 1
    assert counted("time_to_first_token_seconds_sum") == pytest.approx(3.5)
    assert stream.ttft_s == pytest.approx(3.5)


def test_inter_token_latency_is_observed_once_per_later_delivery(counted: Counted) -> None:
    stream = counted.stream()
    for now in (1.0, 1.02, 1.08):
        stream.on_tokens(3, now)

    assert counted("inter_token_latency_seconds_count") == 2
    assert counted("inter_token_latency_seconds_sum") == pytest.approx(0.08)
    assert counted("inter_token_latency_seconds_bucket", le="0.03") == 1
    assert counted("output_tokens_total") == 9


def test_choices_of_one_step_are_one_delivery(counted: Counted) -> None:
    stream = counted.stream(choices=2)
    for now in (1.0, 1.5):
        stream.on_tokens(1, now)
        stream.on_tokens(1, now)

    assert counted("inter_token_latency_seconds_count") == 1
    assert counted("inter_token_latency_seconds_sum") == pytest.approx(0.5)


def test_output_tokens_are_counted_while_the_stream_still_runs(counted: Counted) -> None:
    stream = counted.stream()
    stream.on_tokens(2, 1.0)

    assert counted("output_tokens_total") == 2


def test_time_per_output_token_leaves_the_first_token_out(counted: Counted) -> None:
    stream = counted.stream()
    for now in (5.0, 5.1, 5.2, 5.3):
        stream.on_tokens(1, now)
    stream.settled(RequestOutcome.COMPLETED, 6.0)

    assert counted("time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert counted("time_per_output_token_seconds_count") == 1


def test_time_per_output_token_is_that_of_one_choice(counted: Counted) -> None:
    stream = counted.stream(choices=2)
    for now in (5.0, 5.1, 5.2):
        stream.on_tokens(2, now)

    assert stream.tpot_s == pytest.approx(0.1)


def test_a_single_token_has_no_time_per_output_token(counted: Counted) -> None:
    stream = counted.stream()
    stream.on_tokens(1, 5.0)
    stream.settled(RequestOutcome.COMPLETED, 6.0)

    assert counted("time_per_output_token_seconds_count") == 0


def test_stream_duration_runs_to_the_end_and_counts_only_streams_with_output(counted: Counted) -> None:
    silent, speaking = counted.stream(), counted.stream(now=2.0)
    silent.settled(RequestOutcome.NO_ENGINE, 60.0)
    speaking.on_tokens(1, 3.0)
    speaking.settled(RequestOutcome.COMPLETED, 9.0)

    assert counted("stream_duration_seconds_count") == 1
    assert counted("stream_duration_seconds_sum") == pytest.approx(7.0)


@pytest.mark.parametrize("outcome", list(RequestOutcome))
def test_every_outcome_is_counted_once_and_settling_again_changes_nothing(
    counted: Counted, outcome: RequestOutcome
) -> None:
    stream = counted.stream()
    stream.settled(outcome, 1.0, cached_tokens=4)
    stream.settled(RequestOutcome.INTERNAL_ERROR, 2.0, cached_tokens=4)

    totals = {one: counted("requests_total", outcome=one) for one in RequestOutcome}
    assert totals == {one: float(one is outcome) for one in RequestOutcome}
    assert counted("cached_prompt_tokens_total") == 4


@pytest.mark.parametrize(
    ("outcome", "drops"),
    [
        (RequestOutcome.CANCELLED, 1),
        (RequestOutcome.CLIENT_TOO_SLOW, 1),
        (RequestOutcome.COMPLETED, 0),
        (RequestOutcome.ENGINE_FAILED, 0),
    ],
)
def test_a_connection_drop_is_the_clients_end_of_the_stream(
    counted: Counted, outcome: RequestOutcome, drops: int
) -> None:
    counted.stream().settled(outcome, 1.0)

    seen = [counted("connection_drops_total", reason=reason) or 0 for reason in ("cancelled", "client_too_slow")]
    assert sum(seen) == drops


def test_concurrent_streams_are_those_dispatched_and_not_settled(counted: Counted) -> None:
    first, second = counted.stream(), counted.stream()
    assert counted("concurrent_streams") == 0

    first.dispatched(1.0)
    first.dispatched(2.0)
    second.dispatched(1.0)
    assert counted("concurrent_streams") == 2

    second.requeued(RequeueReason.ENGINE_FULL)
    assert counted("concurrent_streams") == 1

    second.settled(RequestOutcome.CANCELLED, 3.0)
    first.settled(RequestOutcome.COMPLETED, 3.0)
    assert counted("concurrent_streams") == 0


def test_queue_wait_ends_at_the_dispatch_that_was_accepted(counted: Counted) -> None:
    stream = counted.stream(now=1.0)
    stream.dispatched(2.0)
    stream.requeued(RequeueReason.NOT_ACCEPTED)
    stream.dispatched(5.0)
    stream.accepted(prompt_tokens=100)
    stream.settled(RequestOutcome.COMPLETED, 50.0)

    assert counted("queue_wait_seconds_count") == 1
    assert counted("queue_wait_seconds_sum") == pytest.approx(4.0)
    assert counted("dispatch_requeues_total", reason="not_accepted") == 1
    assert stream.attempts == 2


def test_queue_wait_of_a_request_that_gave_up_is_not_forgotten(counted: Counted) -> None:
    counted.stream(now=1.0).settled(RequestOutcome.DEADLINE_EXCEEDED, 31.0)

    assert counted("queue_wait_seconds_sum") == pytest.approx(30.0)


def test_queue_wait_leaves_out_requests_that_never_waited(counted: Counted) -> None:
    counted.stream().settled(RequestOutcome.QUEUE_FULL, 0.0)

    assert counted("queue_wait_seconds_count") == 0


def test_prompt_tokens_count_once_however_often_a_replica_accepts(counted: Counted) -> None:
    stream = counted.stream()
    for attempt_at in (1.0, 2.0):
        stream.dispatched(attempt_at)
        stream.accepted(prompt_tokens=100)

    assert counted("prompt_tokens_total") == 100
    assert counted("queue_wait_seconds_count") == 1


def test_requests_that_were_never_offered_count_under_their_model_or_as_unknown(counted: Counted) -> None:
    counted.metrics.not_offered(RequestOutcome.INVALID, MODEL)
    counted.metrics.not_offered(RequestOutcome.INVALID, "no-such-model")
    counted.metrics.not_offered(RequestOutcome.INVALID)

    assert counted("requests_total", outcome="invalid") == 1
    assert counted("requests_total", outcome="invalid", model="unknown") == 2
    assert counted("requests_total", outcome="invalid", model="no-such-model") is None


def test_queue_gauges_show_requests_and_tokens(counted: Counted) -> None:
    counted.metrics.set_queue(MODEL, requests=7, tokens=900)

    assert (counted("queue_depth"), counted("queue_tokens")) == (7, 900)


def status(engine_id: str, ready: bool = True) -> EngineStatus:
    load = EngineLoad(running=3, waiting=2, kv_cache_usage=0.25)
    return EngineStatus(engine_id, MODEL, load, capacity=8, generations=5, routers=1, ready=ready, max_model_len=2048)


def test_engine_gauges_show_each_replica(counted: Counted) -> None:
    counted.metrics.publish_engines([status("e1"), status("e2", ready=False)])

    shown = {
        name: counted(f"engine_{name}", engine="e1")
        for name in ("ready", "running", "waiting", "kv_cache_usage", "capacity", "generations")
    }
    expected = {"ready": 1, "running": 3, "waiting": 2, "kv_cache_usage": 0.25, "capacity": 8, "generations": 5}
    assert shown == expected
    assert counted("engine_ready", engine="e2") == 0


def test_an_engine_that_is_gone_leaves_no_series_behind(counted: Counted) -> None:
    counted.metrics.publish_engines([status("e1"), status("e2")])
    counted.metrics.publish_engines([status("e2")])

    assert counted("engine_ready", engine="e1") is None
    assert counted("engine_ready", engine="e2") == 1


def test_channel_totals_are_shown_as_counted_by_the_channel(counted: Counted) -> None:
    counted.metrics.publish_channel(ChannelCounts(messages=10, dropped=1, gaps=2, silent_engines=3))

    names = ("messages", "dropped", "gaps", "silent_engines")
    values = [counted.registry.get_sample_value(f"serve_app_channel_{name}_total") for name in names]
    assert values == [10, 1, 2, 3]


def test_every_series_of_a_model_exists_before_its_first_request(counted: Counted) -> None:
    families = {family.name for family in text_string_to_metric_families(counted.metrics.text().decode())}

    assert counted("requests_total", outcome="completed", model="other") == 0
    assert counted("inter_token_latency_seconds_count", model="other") == 0
    assert {name for name in families if not name.startswith("serve_app_")} == set()


def test_two_routers_in_one_process_count_apart() -> None:
    one, two = Counted(), Counted()
    one.stream().on_tokens(1, 1.0)

    assert (one("output_tokens_total"), two("output_tokens_total")) == (1, 0)
