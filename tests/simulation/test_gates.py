"""The gates of `make bench-overload`, with few seeds: what holds under overload, cold start and failure."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.overload.gates import GATES, Check, Results
from benchmarks.overload.measure import Measured
from benchmarks.overload.policies import NO_CONTROL, ORACLE, OURS
from benchmarks.overload.simulation import Scenario, simulate
from benchmarks.overload.workloads import WORKLOADS


def pooled(scenario: Scenario, policy: str, seeds: Iterable[int]) -> Measured:
    found = Measured()
    for seed in seeds:
        found.add(simulate(scenario, policy, seed))
    return found


def checks(name: str, seeds: int | tuple[int, ...], *others: str) -> list[Check]:
    workload = next(each for each in WORKLOADS if each.name == name)
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    found = {policy: pooled(workload.scenario, policy, chosen) for policy in (OURS, *others)}
    reference = pooled(workload.reference, OURS, chosen) if workload.reference is not None else None
    return GATES[name](Results(found, reference))


def failing(found: list[Check]) -> list[Check]:
    return [check for check in found if not check.holds]


def test_calls_of_the_source_document_succeed_in_time_at_little_extra_load() -> None:
    assert not failing(checks("source_document", 100))


def test_a_replica_that_is_cold_for_its_first_calls_costs_neither_answers_nor_work() -> None:
    assert not failing(checks("cold_replica", 1, ORACLE, NO_CONTROL))


def test_a_step_of_load_leaves_goodput_and_first_tokens_as_promised_and_refusals_come_at_once() -> None:
    assert not failing(checks("step", 2, ORACLE))


def test_victims_of_a_noisy_tenant_are_not_refused_and_hardly_wait_longer() -> None:
    seeds = (6, 102, 121)  # bursts in which a victim for a moment waits with more than its neighbour
    assert not failing(checks("noisy_neighbour", seeds))


def test_goodput_on_fresh_requests_is_back_half_a_minute_after_a_retry_storm() -> None:
    assert not failing(checks("retry_storm", 1, ORACLE))


def test_a_slow_replica_gets_probes_only_and_nobody_notices_it() -> None:
    assert not failing(checks("slow_replica", 1))


def test_streams_of_a_killed_replica_go_on_elsewhere_token_by_token() -> None:
    assert not failing(checks("replica_killed", 2))


def test_requests_wait_for_a_sleeping_model_and_all_are_served() -> None:
    assert not failing(checks("scale_from_zero", 3))
