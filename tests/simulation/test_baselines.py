"""Baselines and the oracle do what they are said to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.overload.measure import Measured
from benchmarks.overload.policies import NO_CONTROL, ORACLE
from benchmarks.overload.simulation import simulate
from benchmarks.overload.workloads import WORKLOADS, Workload


def workload(name: str) -> Workload:
    return next(each for each in WORKLOADS if each.name == name)


def pooled(name: str, policy: str, seeds: int) -> Measured:
    found = Measured()
    for seed in range(seeds):
        found.add(simulate(workload(name).scenario, policy, seed))
    return found


def test_the_source_documents_own_policy_gives_the_published_figures() -> None:
    found = pooled("source_document", "retries", 60)
    assert found.success == pytest.approx(0.978, abs=0.003)
    assert found.load_ratio == pytest.approx(1.36, abs=0.02)


def test_a_run_is_a_function_of_its_seed() -> None:
    scenario = replace(workload("bursts").scenario, end_s=60.0)
    assert simulate(scenario, ORACLE, 3) == simulate(scenario, ORACLE, 3)
    assert simulate(scenario, ORACLE, 3) != simulate(scenario, ORACLE, 4)


@pytest.mark.parametrize("policy", [NO_CONTROL, "ray_serve_tuned", "fixed_concurrency", "retries", "gradient2"])
def test_no_baseline_has_more_goodput_under_a_step_than_the_oracle(policy) -> None:
    oracle = pooled("step", ORACLE, 2)
    baseline = pooled("step", policy, 2)
    assert baseline.good_tokens < oracle.good_tokens
    assert oracle.load_ratio <= baseline.load_ratio + 0.2


def test_the_oracle_loses_no_stream_to_a_death_that_it_foresees_and_uses_no_slow_or_cold_replica() -> None:
    killed = pooled("replica_killed", ORACLE, 2)
    assert (killed.success, killed.begun, killed.lost_tokens) == (1.0, killed.begun_completed, 0)
    assert pooled("slow_replica", ORACLE, 1).watched_dispatches == 0
    assert pooled("cold_replica", ORACLE, 1).watched_dispatches == 0


def test_a_death_breaks_streams_where_nobody_takes_them_over() -> None:
    killed = pooled("replica_killed", NO_CONTROL, 1)
    assert killed.begun > killed.begun_completed
    assert killed.lost_tokens > 0
    assert killed.repeated_tokens == 0


def test_the_oracle_serves_a_tenant_its_share_whatever_the_other_asks() -> None:
    assert pooled("noisy_neighbour", ORACLE, 1).success > 0.95
    assert pooled("noisy_neighbour", "ray_serve_tuned", 1).success < 0.5


def test_ray_serves_unbounded_queue_holds_requests_until_a_model_is_loaded() -> None:
    assert pooled("scale_from_zero", "ray_serve_default", 1).success == 1.0
    assert pooled("scale_from_zero", NO_CONTROL, 1).success == 0.0
