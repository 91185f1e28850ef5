from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.resilience.scaling import (
    Fleet,
    ModelLoad,
    ScalingConfig,
    ScalingDecision,
    ScalingPolicy,
    ScalingReason,
)
from tests.unit.resilience.scaled_fleet import ScaledFleet

NO_WINDOWS = {"upscale_stabilization_s": 0.0, "downscale_stabilization_s": 0.0, "max_downscale_stabilization_s": 0.0}


def policy(**config: float) -> ScalingPolicy:
    return ScalingPolicy(ScalingConfig.model_validate({**NO_WINDOWS, **config}))


def fleet(running: int, target: int | None = None, minimum: int = 0, maximum: int = 20) -> Fleet:
    return Fleet(running, running if target is None else target, minimum, maximum)


def load(engines: int = 1, generations: float = 0, **further: float) -> ModelLoad:
    """`engines` replicas with ten places each."""
    values = {"request_tokens": 500.0, "tokens_per_s": 500.0 * engines, **further}
    return ModelLoad(engines=engines, capacity=10 * engines, generations=generations, **values)


def queued(requests: float, engines: int = 1, generations: float = 10, **further: float) -> ModelLoad:
    return load(engines, generations, queued_requests=requests, queue_tokens=500.0 * requests, **further)


# --- from and to zero


def test_sleeping_model_wakes_at_once_for_one_small_request() -> None:
    decision = policy(upscale_stabilization_s=60.0).decide(queued(1, engines=0, generations=0), fleet(0), 0.0)
    assert (decision.target, decision.reason) == (1, ScalingReason.QUEUE)


def test_long_queue_wakes_as_many_replicas_as_may_load_at_once() -> None:
    decision = policy(max_step_replicas=3).decide(queued(1000, engines=0, generations=0), fleet(0), 0.0)
    assert decision.target == 3


def test_model_that_nobody_asks_for_stays_asleep() -> None:
    assert policy().decide(load(0), fleet(0), 0.0).target == 0


def test_last_replica_goes_only_after_the_idle_time() -> None:
    scaling = policy(idle_before_zero_s=60.0)
    assert scaling.decide(load(idle_s=59.9), fleet(1), 0.0).target == 1
    decision = scaling.decide(load(idle_s=60.0), fleet(1), 0.1)
    assert (decision.target, decision.reason) == (0, ScalingReason.IDLE)


def test_replica_that_still_runs_a_generation_never_idles() -> None:
    assert policy(idle_before_zero_s=0.0).decide(load(generations=1, idle_s=999.0), fleet(1), 0.0).target == 1


def test_minimum_of_one_keeps_the_last_replica() -> None:
    assert policy(idle_before_zero_s=0.0).decide(load(idle_s=999.0), fleet(1, minimum=1), 0.0).target == 1


# --- up


def test_replicas_fuller_than_the_target_utilization_call_for_another() -> None:
    scaling = policy(target_utilization=0.75, tolerance=0.1)
    assert scaling.decide(load(generations=8), fleet(1), 0.0).target == 1, "0.8 / 0.75 is within the tolerance"
    decision = scaling.decide(load(generations=9), fleet(1), 0.1)
    assert (decision.target, decision.reason) == (2, ScalingReason.UTILIZATION)


def test_full_kv_cache_calls_for_another_replica_although_places_are_free() -> None:
    assert policy().decide(load(generations=3, kv_cache_usage=0.95), fleet(1), 0.0).target == 2


def test_waiting_tokens_count_not_only_waiting_requests() -> None:
    short = load(generations=5, queued_requests=2, queue_tokens=200)
    long = load(generations=5, queued_requests=2, queue_tokens=12_000)
    assert policy().decide(short, fleet(1), 0.0).target == 1
    decision = policy().decide(long, fleet(1), 0.0)
    assert (decision.target, decision.reason) == (3, ScalingReason.QUEUE)


def test_requests_that_wait_inside_engines_count_as_waiting() -> None:
    assert policy().decide(load(generations=6, engine_waiting=1), fleet(1), 0.0).target == 1
    assert policy().decide(load(generations=7, engine_waiting=6), fleet(1), 0.0).target == 2


def test_fast_engines_need_fewer_replicas_for_the_same_queue() -> None:
    slow, fast = policy(), policy()
    for second in range(120):
        slow.decide(queued(100, tokens_per_s=500.0), fleet(1), float(second))
        fast.decide(queued(100, tokens_per_s=5000.0), fleet(1), float(second))
    assert fast.tokens_per_s == pytest.approx(5000.0, rel=0.05)
    of_fast, of_slow = (each.decide(queued(100), fleet(8), 120.0).demand for each in (fast, slow))
    assert of_fast < of_slow / 3


def test_rate_of_idle_engines_is_not_taken_for_what_they_can_do() -> None:
    scaling = policy(min_tokens_per_s=100.0)
    for second in range(60):
        scaling.decide(queued(5, tokens_per_s=2000.0), fleet(1), float(second))
    for second in range(60, 600):
        scaling.decide(load(generations=1, tokens_per_s=30.0), fleet(1), float(second))
    assert scaling.tokens_per_s > 1500.0


def test_engine_that_produces_nothing_is_still_taken_to_do_the_minimum() -> None:
    scaling = policy(min_tokens_per_s=400.0)
    for second in range(300):
        scaling.decide(queued(5, tokens_per_s=0.0), fleet(1), float(second))
    assert scaling.tokens_per_s == 400.0


def test_step_is_bounded_by_the_replicas_that_run() -> None:
    scaling = policy(max_step_replicas=2, max_step_factor=2.0)
    assert scaling.decide(queued(500), fleet(1), 0.0).target == 3
    assert scaling.decide(queued(500), fleet(1, target=3), 0.1).target == 3, "the step waits for those that load"
    assert scaling.decide(queued(500, engines=3), fleet(3), 0.2).target == 6
    assert scaling.decide(queued(500, engines=6), fleet(6), 0.3).target == 12


def test_replicas_that_load_are_not_called_off_by_the_bound_of_a_step() -> None:
    assert policy(max_step_replicas=1).decide(queued(500, engines=0), fleet(0, target=4), 0.0).target == 4


def test_burst_shorter_than_the_upscale_window_changes_nothing() -> None:
    scaling = policy(upscale_stabilization_s=5.0)
    scaling.decide(load(), fleet(1), 0.0)
    assert scaling.decide(queued(30), fleet(1), 1.0).target == 1
    assert scaling.decide(load(), fleet(1), 3.0).target == 1
    assert scaling.decide(queued(30), fleet(1), 5.0).target == 1
    assert scaling.decide(queued(30), fleet(1), 8.5).target > 1


def test_demand_must_be_known_for_the_whole_upscale_window() -> None:
    scaling = policy(upscale_stabilization_s=5.0)
    assert scaling.decide(queued(30), fleet(1), 100.0).target == 1, "nothing is known of the seconds before"
    assert scaling.decide(queued(30), fleet(1), 105.0).target > 1


def test_queue_that_outlasts_its_target_calls_for_one_more_replica_whatever_was_estimated() -> None:
    scaling = policy(target_queue_wait_s=10.0)

    def trickle(engines: int, waiting_s: float) -> ModelLoad:
        return load(engines, 5, queued_requests=1, queue_tokens=1, queue_waiting_s=waiting_s)

    assert scaling.decide(trickle(1, 10.0), fleet(1), 100.0).target == 1
    assert scaling.decide(trickle(1, 10.5), fleet(1), 100.5).target == 2
    assert scaling.decide(trickle(1, 60.0), fleet(1, target=2), 150.0).target == 2, "one loads"
    assert scaling.decide(trickle(2, 65.0), fleet(2), 155.0).target == 2, "it has just come"
    assert scaling.decide(trickle(2, 70.5), fleet(2), 160.5).target == 3


# --- down


def test_replicas_go_once_fewer_have_sufficed_for_the_whole_window() -> None:
    scaling = policy(downscale_stabilization_s=60.0, max_downscale_stabilization_s=60.0)
    scaling.decide(load(4, generations=30), fleet(4), 0.0)
    assert scaling.decide(load(4, generations=8), fleet(4), 30.0).target == 4
    assert scaling.decide(load(4, generations=8), fleet(4), 60.0).target == 4, "30 generations were 60 s ago"
    decision = scaling.decide(load(4, generations=8), fleet(4), 60.1)
    assert (decision.target, decision.reason) == (2, ScalingReason.UTILIZATION)


def test_replica_goes_only_if_the_rest_has_room_to_spare() -> None:
    assert policy().decide(load(3, generations=14), fleet(3), 0.0).target == 3, "1.87 replicas' worth"
    assert policy().decide(load(3, generations=13), fleet(3), 0.0).target == 2, "1.73 replicas' worth"


def test_highest_demand_within_the_window_decides_how_many_stay() -> None:
    scaling = policy(downscale_stabilization_s=60.0)
    for second in range(200):
        generations = 20 if second % 40 == 0 else 2
        decision = scaling.decide(load(6, generations=generations), fleet(6), float(second))
    assert decision.target == 3


def test_downscale_that_was_regretted_doubles_the_window_up_to_its_bound() -> None:
    scaling = policy(downscale_stabilization_s=10.0, max_downscale_stabilization_s=30.0)
    now, seen = 0.0, []
    for _ in range(3):
        while scaling.decide(load(2, generations=4), fleet(2), now).target == 2:
            now += 1.0
        scaling.decide(queued(10), fleet(1), now + 5.0)
        now += 6.0
        seen.append(scaling.downscale_window_s)
    assert seen == [20.0, 30.0, 30.0]


def test_window_shrinks_again_after_a_long_time_without_regret() -> None:
    scaling = policy(downscale_stabilization_s=10.0, max_downscale_stabilization_s=100.0)
    for second in range(11):
        scaling.decide(load(2, generations=4), fleet(2), float(second))
    scaling.decide(queued(10), fleet(1), 11.0)
    assert scaling.downscale_window_s == 20.0
    for second in range(12, 211):
        scaling.decide(load(2, generations=4), fleet(2), float(second))
    assert scaling.downscale_window_s == 20.0
    scaling.decide(load(2, generations=4), fleet(2), 212.0)
    assert scaling.downscale_window_s == 10.0


# --- what is not known


def test_silent_routers_change_nothing() -> None:
    for target in (0, 1, 5):
        decision = policy().decide(None, fleet(target), 0.0)
        assert decision == ScalingDecision(target, ScalingReason.UNKNOWN)


def test_silence_of_routers_is_not_taken_for_low_demand() -> None:
    scaling = policy(downscale_stabilization_s=60.0)
    scaling.decide(load(4, generations=30), fleet(4), 0.0)
    scaling.decide(None, fleet(4), 30.0)
    assert scaling.decide(load(4, generations=1), fleet(4), 100.0).target == 4
    assert scaling.decide(load(4, generations=1), fleet(4), 159.9).target == 4
    assert scaling.decide(load(4, generations=1), fleet(4), 160.0).target == 1


def test_configuration_names_what_is_wrong() -> None:
    with pytest.raises(ValidationError, match="target_utilisation"):
        ScalingConfig.model_validate({"target_utilisation": 0.5})
    with pytest.raises(ValidationError, match="target_utilization"):
        ScalingConfig(target_utilization=1.5)


# --- any load

loads = st.builds(
    ModelLoad,
    queued_requests=st.integers(0, 500),
    queue_tokens=st.integers(0, 500_000),
    queue_waiting_s=st.floats(0, 500),
    request_tokens=st.floats(0, 5000),
    engines=st.integers(0, 8),
    capacity=st.integers(0, 256),
    generations=st.integers(0, 256),
    engine_waiting=st.integers(0, 64),
    kv_cache_usage=st.floats(0, 8),
    tokens_per_s=st.floats(0, 50_000),
    idle_s=st.floats(0, 2000),
)


@given(st.lists(st.tuples(st.none() | loads, st.integers(0, 8), st.floats(0.1, 400.0)), max_size=30), st.integers(0, 2))
def test_target_stays_within_bounds_steps_and_what_runs_needs(
    history: list[tuple[ModelLoad | None, int, float]], minimum: int
) -> None:
    config = ScalingConfig()
    scaling = ScalingPolicy(config)
    now, target = 0.0, minimum
    for load_now, ready, elapsed_s in history:
        now += elapsed_s
        running = min(ready, target)
        before, target = target, scaling.decide(load_now, Fleet(running, target, minimum, 8), now).target
        assert minimum <= target <= 8
        if target > before:
            assert load_now is not None
            assert target <= max(running + config.max_step_replicas, running * config.max_step_factor, minimum)
        if target < before:
            assert load_now is not None
            if load_now.engines and load_now.capacity:
                per_replica = load_now.capacity / load_now.engines
                assert target * per_replica >= load_now.generations, "what runs now fits into those that stay"
        if target == 0 and before > 0:
            assert load_now is not None and load_now.idle_s >= config.idle_before_zero_s
            assert load_now.queued_requests == 0 and load_now.generations == 0


@given(loads, st.integers(0, 8), st.floats(1.0, 100.0))
def test_more_waiting_tokens_never_ask_for_fewer_replicas(now_load: ModelLoad, target: int, factor: float) -> None:
    heavier = {name: getattr(now_load, name) for name in ModelLoad.__dataclass_fields__}
    heavier["queue_tokens"] *= factor
    heavier["queued_requests"] = max(1, now_load.queued_requests)
    at = fleet(min(target, int(now_load.engines)), target)
    assert policy().decide(ModelLoad(**heavier), at, 0.0).target >= policy().decide(now_load, at, 0.0).target


# --- over hours, in virtual time


@pytest.mark.parametrize("per_s", [0.4, 1.0, 4.1])
def test_constant_load_settles_and_stays(per_s: float) -> None:
    served = ScaledFleet(ScalingPolicy(ScalingConfig()), random.Random(1))
    served.run(1200.0, lambda _: per_s)
    served.targets.clear()
    served.longest_wait_s = 0.0
    served.run(3600.0, lambda _: per_s)
    assert served.changes <= 2, served.targets
    assert served.longest_wait_s <= 20.0


def test_engines_that_slow_down_when_full_do_not_make_it_swing() -> None:
    """One replica is a little too full for the load; two are so empty, and faster, that one seems enough."""

    def swings(**config: float) -> int:
        served = ScaledFleet(ScalingPolicy(ScalingConfig.model_validate(config)), random.Random(1), crowding=2.0)
        served.run(3 * 3600.0, lambda _: 0.4)
        return served.changes

    window = {"downscale_stabilization_s": 60.0, "upscale_stabilization_s": 1.0}
    plain = swings(**window, max_downscale_stabilization_s=60.0)
    damped = swings(**window, max_downscale_stabilization_s=3600.0)
    assert plain > 40, "the load is one that swings"
    assert damped <= plain / 3


def test_step_up_is_followed_and_step_down_gives_the_replicas_back() -> None:
    served = ScaledFleet(ScalingPolicy(ScalingConfig()), random.Random(1), minimum=0)
    served.run(900.0, lambda _: 0.3)
    assert served.target == 1
    served.run(600.0, lambda _: 5.0)
    assert served.running == served.target >= 7
    assert served.waiting == 0
    served.run(900.0, lambda _: 0.3)
    assert served.target == 1
    served.run(900.0, lambda _: 0.0)
    assert served.target == served.running == 0
    served.run(300.0, lambda _: 0.3)
    assert 1 <= served.running <= 3, "it woke again, with what had to wait meanwhile"
