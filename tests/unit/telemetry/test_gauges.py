"""What a router replica shows as it is now: queue, budget, engines, channel and tasks."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.request import Priority
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.replica import ReplicaSnapshot
from serve_app.telemetry.channel_metrics import ChannelCounts
from serve_app.telemetry.engine_gauges import BREAKER_STATE_VALUES
from tests.unit.telemetry.counted import MODEL, Counted


def test_queue_gauges_show_requests_and_tokens_of_each_band(counted: Counted) -> None:
    counted.metrics.set_queue(MODEL, 7, 900, Priority.INTERACTIVE)
    counted.metrics.set_queue(MODEL, 2, 50, Priority.BATCH)

    shown = {band: (counted("queue_depth", band=band), counted("queue_tokens", band=band)) for band in Priority}
    assert shown == {Priority.INTERACTIVE: (7, 900), Priority.DEFAULT: (0, 0), Priority.BATCH: (2, 50)}


def test_retry_budget_is_shown_as_what_is_used_and_what_is_left(counted: Counted) -> None:
    counted.metrics.set_retry_budget(MODEL, left_tokens=12.5, used_tokens=300)

    assert (counted("retry_budget_left_tokens"), counted("retry_budget_used_tokens")) == (12.5, 300)


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


def test_engine_gauges_show_what_the_router_makes_of_each_replica(counted: Counted) -> None:
    states = [
        ReplicaSnapshot("e1", limit=6, ramp_fraction=0.5, breaker=BreakerState.HALF_OPEN, ejected=False, in_flight=2),
        ReplicaSnapshot("e2", limit=8, ramp_fraction=1.0, breaker=BreakerState.OPEN, ejected=True, in_flight=0),
    ]
    counted.metrics.publish_replicas({MODEL: states})

    names = ("limit", "ramp_fraction", "breaker_state", "ejected", "in_flight")
    assert [counted(f"engine_{name}", engine="e1") for name in names] == [6, 0.5, 1, 0, 2]
    assert [counted(f"engine_{name}", engine="e2") for name in names] == [8, 1.0, 2, 1, 0]

    counted.metrics.publish_replicas({MODEL: states[1:]})
    assert counted("engine_limit", engine="e1") is None


def test_every_breaker_state_has_a_value_that_rises_as_less_gets_through() -> None:
    assert set(BREAKER_STATE_VALUES) == set(BreakerState)
    by_value = sorted(BREAKER_STATE_VALUES, key=BREAKER_STATE_VALUES.__getitem__)
    assert by_value == [BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN]


def test_channel_totals_are_shown_as_counted_by_the_channel(counted: Counted) -> None:
    counted.metrics.publish_channel(ChannelCounts(messages=10, dropped=1, gaps=2, silent_engines=3))

    names = ("messages", "dropped", "gaps", "silent_engines")
    values = [counted.registry.get_sample_value(f"serve_app_channel_{name}_total") for name in names]
    assert values == [10, 1, 2, 3]


def test_tasks_of_the_event_loop_are_shown(counted: Counted) -> None:
    counted.metrics.publish_tasks(7)

    assert counted.registry.get_sample_value("serve_app_event_loop_tasks") == 7


def test_every_series_of_a_model_exists_before_its_first_request(counted: Counted) -> None:
    families = {family.name for family in text_string_to_metric_families(counted.metrics.text().decode())}

    assert counted("requests_total", outcome="completed", model="other") == 0
    assert counted("inter_token_latency_seconds_count", model="other") == 0
    assert counted("failovers_total", reason="engine_lost", model="other") == 0
    assert counted("refusals_total", reason="displaced", model="other") == 0
    assert counted("queue_outcomes_total", band="batch", outcome="expired", model="other") == 0
    assert {name for name in families if not name.startswith("serve_app_")} == set()


def test_two_routers_in_one_process_count_apart() -> None:
    one, two = Counted(), Counted()
    one.stream().on_tokens(1, 1.0)

    assert (one("output_tokens_total"), two("output_tokens_total")) == (1, 0)
