from __future__ import annotations

from collections import Counter

import pytest

from serve_app.engine.simulated.config import FaultConfig, RequestFault, TimedFault
from serve_app.engine.simulated.faults import FaultPlan


def test_without_faults_nothing_happens() -> None:
    plan = FaultPlan(FaultConfig())
    assert not plan.start_fails()
    assert plan.for_request(1) is None
    assert not plan.crashed(1e9)
    assert plan.step_duration(5, 0.1) == 0.1


def test_drawn_faults_have_their_probabilities_and_fall_within_the_first_tokens() -> None:
    plan = FaultPlan(
        FaultConfig(error_probability=0.3, stall_probability=0.2, crash_probability=0.1, within_tokens=4, stall_s=7)
    )
    faults = [plan.for_request(number) for number in range(1, 4001)]
    kinds = Counter(fault.kind if fault else "none" for fault in faults)
    for kind, share in {"error": 0.3, "stall": 0.2, "crash": 0.1, "none": 0.4}.items():
        assert kinds[kind] / 4000 == pytest.approx(share, abs=0.03)
    assert {fault.token for fault in faults if fault} == {0, 1, 2, 3}
    assert {fault.stall_s for fault in faults if fault and fault.kind == "stall"} == {7}


def test_same_seed_draws_the_same_faults_and_another_seed_others() -> None:
    plans = [FaultPlan(FaultConfig(seed=seed, error_probability=0.5)) for seed in (1, 1, 2)]
    drawn = [[plan.for_request(number) for number in range(1, 50)] for plan in plans]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_without_seed_two_processes_draw_differently() -> None:
    config = FaultConfig(seed=None, error_probability=0.5)
    plans = [FaultPlan(config), FaultPlan(config)]
    assert len({tuple(plan.for_request(number) is None for number in range(1, 100)) for plan in plans}) == 2


def test_listed_fault_takes_precedence_over_a_drawn_one() -> None:
    stall = RequestFault(kind="stall", request=2, token=9, stall_s=1)
    plan = FaultPlan(FaultConfig(error_probability=1, requests=(stall,)))
    first, second = plan.for_request(1), plan.for_request(2)
    assert first is not None
    assert first.kind == "error"
    assert second == stall


def test_each_start_is_an_attempt_of_its_own() -> None:
    plan = FaultPlan(FaultConfig(start_failure_probability=0.5))
    outcomes = [plan.start_fails() for _ in range(100)]
    assert 30 < sum(outcomes) < 70


def test_timed_crash_strikes_at_its_time() -> None:
    plan = FaultPlan(FaultConfig(timed=(TimedFault(kind="crash", after_s=9), TimedFault(kind="crash", after_s=3))))
    assert not plan.crashed(2.99)
    assert plan.crashed(3)


def test_slow_steps_are_those_that_begin_within_the_span() -> None:
    plan = FaultPlan(FaultConfig(timed=(TimedFault(kind="slow", after_s=1, for_s=2, factor=3),)))
    assert [plan.step_duration(age_s, 0.1) for age_s in (0.95, 1, 2.9, 3)] == pytest.approx([0.1, 0.3, 0.3, 0.1])


def test_no_step_ends_within_a_stall() -> None:
    plan = FaultPlan(FaultConfig(timed=(TimedFault(kind="stall", after_s=1, for_s=2),)))
    for age_s in (0.95, 1, 2.9):
        assert age_s + plan.step_duration(age_s, 0.1) == pytest.approx(3)
    assert plan.step_duration(0.5, 0.1) == 0.1
    assert plan.step_duration(3, 0.1) == 0.1
