from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.outcome import RequestOutcome
from serve_app.resilience.scaling import ModelLoad
from serve_app.router.serve.autoscaling_stats import AutoscalingStats, combined, decode, encode
from serve_app.telemetry.metrics import ServeMetrics


class Router:
    """The metrics of a router of two models, and what it tells Serve of them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.metrics = ServeMetrics(registry, ["a", "b"])
        self._stats = AutoscalingStats(registry, {"a": "Engine-a", "b": "Engine-b"}, 100.0, 0.0)

    def load(self, now: float, model: str = "a") -> ModelLoad:
        return decode(self._stats.report(now))[f"Engine-{model}"]

    def serve(self, prompt_tokens: int, output_tokens: int) -> None:
        """A whole stream of model a."""
        stream = self.metrics.offered("a", 0.0)
        stream.dispatched(0.0)
        stream.accepted(prompt_tokens)
        stream.on_tokens(output_tokens, 1.0)
        stream.settled(RequestOutcome.COMPLETED, 1.0)


def status(engine_id: str, **load: float) -> EngineStatus:
    generations = int(load.pop("generations", 0))
    return EngineStatus(engine_id, "a", EngineLoad(**load), 8, generations, 1, True, 4096)  # type: ignore[arg-type]  # fields


@pytest.fixture
def router() -> Router:
    return Router()


def test_queue_is_told_in_prompt_and_expected_output_tokens(router: Router) -> None:
    router.metrics.set_queue("a", 3, 600)
    assert router.load(1.0).queued_requests == 3
    assert router.load(1.0).queue_tokens == 600 + 3 * 100
    assert router.load(1.0, "b").queue_tokens == 0


def test_expected_output_is_learned_from_streams_that_ended(router: Router) -> None:
    for _ in range(90):
        router.serve(50, 20)
    router.metrics.set_queue("a", 1, 0)
    assert router.load(1.0).queue_tokens == pytest.approx(28.0)
    assert router.load(1.0).request_tokens == pytest.approx(73.0)


def test_engines_are_summed(router: Router) -> None:
    router.metrics.publish_engines(
        [
            status("1", running=4, waiting=1, kv_cache_usage=0.5, generations=5),
            status("2", running=2, kv_cache_usage=0.25, generations=2),
        ]
    )
    load = router.load(1.0)
    assert (load.engines, load.capacity, load.generations) == (2, 16, 7)
    assert (load.engine_waiting, load.kv_cache_usage) == (1, 0.75)


def test_tokens_per_second_are_those_of_the_last_seconds(router: Router) -> None:
    assert router.load(0.0).tokens_per_s == 0
    for second in range(1, 31):
        if second <= 20:
            router.serve(50, 50)
        load = router.load(float(second))
        if second == 20:
            assert load.tokens_per_s == pytest.approx(100.0)
    assert load.tokens_per_s == 0


def test_time_that_requests_have_waited_without_a_break_is_told(router: Router) -> None:
    router.metrics.set_queue("a", 2, 10)
    assert router.load(10.0).queue_waiting_s == 0
    assert router.load(14.0).queue_waiting_s == 4
    router.metrics.set_queue("a", 0, 0)
    assert router.load(15.0).queue_waiting_s == 0


def test_model_is_idle_since_it_last_had_a_request(router: Router) -> None:
    assert router.load(5.0).idle_s == 5
    router.serve(1, 1)
    assert router.load(6.0).idle_s == 0, "a request that came and went between two reports"
    assert router.load(9.0).idle_s == 3
    router.metrics.publish_engines([status("1", generations=1)])
    assert router.load(20.0).idle_s == 0
    assert router.load(20.0, "b").idle_s == 20


def test_statistics_are_flat_numbers_that_decode_to_the_same(router: Router) -> None:
    load = ModelLoad(queued_requests=3, queue_tokens=900, kv_cache_usage=0.4)
    stats = {**encode("Engine-x", load), "running_requests": 3.0, "Engine-x/of_another_version": 1.0}
    assert all(isinstance(value, int | float) for value in stats.values())
    assert decode(stats) == {"Engine-x": load}


def test_queues_of_routers_add_up_and_the_engines_that_they_share_do_not() -> None:
    one = ModelLoad(
        queued_requests=3, queue_tokens=900, engines=2, capacity=16, generations=7, idle_s=0, tokens_per_s=9
    )
    two = ModelLoad(queued_requests=1, queue_tokens=50, engines=1, capacity=8, generations=3, idle_s=9, tokens_per_s=1)
    both = combined([one, two])
    assert both is not None
    assert (both.queued_requests, both.queue_tokens, both.tokens_per_s, both.idle_s) == (4, 950, 10, 0)
    assert (both.engines, both.capacity, both.generations) == (2, 16, 7)


def test_nothing_is_known_when_no_router_reports() -> None:
    assert combined([]) is None
