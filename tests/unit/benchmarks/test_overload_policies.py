"""The pure parts of the overload benchmark: lengths, arrivals, limits, percentiles, gates and what is printed."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from benchmarks.overload import workloads
from benchmarks.overload.arrivals import Phase, bursts, poisson
from benchmarks.overload.clients import Refusal
from benchmarks.overload.gates import GATES, NEEDED, Results
from benchmarks.overload.gradient2 import Gradient2
from benchmarks.overload.lengths import OUTPUT_TOKENS, PROMPT_TOKENS
from benchmarks.overload.measure import Measured, percentile
from benchmarks.overload.oracle import _peak_kv
from benchmarks.overload.policies import NO_CONTROL, ORACLE, OURS
from benchmarks.overload.report import judge, line
from benchmarks.overload.workloads import WORKLOADS


def test_gradient2_halves_at_most_and_grows_by_its_queue_while_latency_is_flat() -> None:
    limit = Gradient2()
    for _ in range(200):
        limit.sampled(1.0, 200)
    assert limit.limit > 150
    for _ in range(30):
        limit.sampled(30.0, 200)
    assert limit.limit < 60


def test_kv_peak_counts_how_running_jobs_grow_until_they_end() -> None:
    assert _peak_kv([(10, 100)]) == 110
    assert _peak_kv([(10, 100), (20, 50)]) == 170
    assert _peak_kv([(1, 100), (50, 10)]) == 112


def test_recorded_lengths_have_the_published_medians() -> None:
    assert PROMPT_TOKENS.at(0.5) == 1020
    assert OUTPUT_TOKENS.at(0.5) == 129
    rng = random.Random(1)
    drawn = [OUTPUT_TOKENS.sample(rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(OUTPUT_TOKENS.mean, rel=0.02)


def test_arrivals_follow_the_rate_of_each_phase() -> None:
    times = list(poisson((Phase(100.0, 5.0), Phase(200.0, 50.0)), random.Random(1)))
    assert times == sorted(times)
    assert sum(at < 100 for at in times) == pytest.approx(500, rel=0.15)
    assert sum(at >= 100 for at in times) == pytest.approx(5000, rel=0.05)
    assert bursts(1.0, 9.0, 10.0, 2.0, 20.0) == (Phase(8, 1), Phase(10, 9), Phase(18, 1), Phase(20, 9))


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 99) == 99.0
    assert percentile([3.0], 50) == 3.0
    assert math.isnan(percentile([], 99))


def test_every_gate_can_fail_and_names_an_existing_workload() -> None:
    assert set(GATES) < {each.name for each in WORKLOADS}
    for name, gate in GATES.items():
        good = Measured(
            runs=1, asks=10, completed=10, good_tokens=10, fresh_good_tokens=10, begun=10, begun_completed=10
        )
        good.ttft_s = good.tpot_s = good.latency_s = [1.0]
        good.computed = good.accepted_work = 10.0
        good.dispatches = 1000
        bad = Measured(runs=1, asks=10, good_tokens=1, fresh_good_tokens=1, begun=10, begun_completed=9)
        bad.ttft_s = bad.tpot_s = bad.latency_s = bad.refusal_s = [9.0]
        bad.computed, bad.accepted_work, bad.dispatches, bad.watched_dispatches, bad.refused = 20.0, 10.0, 9, 1, 1
        slower = replace(good, ttft_s=[3.0])
        holds = Results({OURS: good, ORACLE: good, NO_CONTROL: slower}, good)
        fails = Results({OURS: bad, ORACLE: good, NO_CONTROL: slower}, good)
        assert all(check.holds for check in gate(holds)), name
        assert not any(
            check.holds for check in gate(fails) if check.what != "tokens lost" and "repeat" not in check.what
        )


def test_lines_have_the_agreed_keys_and_gates_are_ours_alone() -> None:
    found = Measured(runs=1, asks=1, completed=1, good_tokens=5.0)
    judged = judge("scale_from_zero", "", Results({NO_CONTROL: found, ORACLE: found, OURS: found}), complete=True)
    assert line(judged, OURS) == {
        "bench": "overload",
        "workload": "scale_from_zero",
        "policy": OURS,
        "success": 1.0,
        "goodput_ratio": 1.0,
        "ttft_p99_s": None,
        "load_ratio": 0.0,
        "lost_tokens": 0,
        "repeated_tokens": 0,
        "gate": True,
    }
    assert line(judged, ORACLE)["gate"] is None
    unjudged = judge("step", "", Results({OURS: found}), complete=False)
    assert line(unjudged, OURS)["gate"] is None
    assert {NO_CONTROL, ORACLE, OURS} == NEEDED


def test_refusals_say_what_the_ingress_says() -> None:
    from benchmarks.overload.serve_app_policy import refusal
    from serve_app.core.errors import EngineFailed, QueueFull

    assert refusal(QueueFull("full", 7.0)) == Refusal(429, 7.0, True)
    assert refusal(EngineFailed("broken")) == Refusal(500, None, False)


def test_offered_loads_are_shares_of_what_the_engines_can_do() -> None:
    assert 2.5 < workloads.REPLICA_RPS < 3.5
