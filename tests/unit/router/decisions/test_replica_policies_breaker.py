"""Replicas that fail are left alone, and come back."""

from __future__ import annotations

import pytest

from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.replica_policies import AttemptResult
from tests.unit.router.decisions.policed_pool import BROKEN, EJECTED, OPEN, PROBE, Pool, status

FAILURES = [AttemptResult.FAILED, AttemptResult.STALLED, AttemptResult.TIMED_OUT, AttemptResult.LOST]


@pytest.mark.parametrize("result", FAILURES)
def test_failing_replica_is_left_alone_and_comes_back_by_probes_and_slow_start(result: AttemptResult) -> None:
    pool = Pool("a", "b")

    pool.fail("b", 5, result)
    assert (pool.standing("b"), pool.allowance("b")) == (BROKEN, 0)
    pool.pass_time(2.5)
    admitted = []
    while pool.snapshot("b").breaker is not BreakerState.CLOSED:
        assert pool.standing("b") == PROBE
        admitted.append(pool.allowance("b"))
        pool.serve("b", times=admitted[-1])

    assert admitted == [1, 2, 4]
    assert pool.standing("b") == OPEN
    assert pool.allowance("b") == 1


@pytest.mark.parametrize("result", [AttemptResult.OVERLOADED, AttemptResult.CANCELLED])
def test_overload_and_cancellation_do_not_open_the_breaker(result: AttemptResult) -> None:
    pool = Pool("a", "b")

    pool.fail("b", 50, result)

    assert pool.snapshot("b").breaker is BreakerState.CLOSED


def test_first_tokens_that_time_out_in_a_congested_engine_do_not_open_the_breaker() -> None:
    pool = Pool("a", "b")
    for _ in range(20):
        pool.now += 0.1
        pool.policies.reported(status("a"), pool.now)
        pool.policies.reported(status("b", running=16, waiting=48, generations=64), pool.now)

    pool.fail("b", 50, AttemptResult.TIMED_OUT)

    assert pool.snapshot("b").breaker is BreakerState.CLOSED


def test_cancelled_probe_gives_its_place_to_another_request() -> None:
    pool = Pool("a", "b")
    pool.fail("b", 5)
    pool.pass_time(2.5)
    probe = pool.send("b")
    assert pool.allowance("b", in_flight=1) == 0

    pool.settle(probe, AttemptResult.CANCELLED)

    assert pool.allowance("b") == 1


def test_first_token_of_a_long_stream_is_enough_for_the_next_probes() -> None:
    pool = Pool("a", "b")
    pool.fail("b", 5)
    pool.pass_time(2.5)

    pool.first_token(pool.send("b"), 0.2)

    assert pool.allowance("b", in_flight=1) == 2


def test_probe_that_is_cancelled_after_its_first_token_frees_no_place_of_the_next_stage() -> None:
    pool = Pool("a", "b")
    pool.fail("b", 5)
    pool.pass_time(2.5)
    probe = pool.send("b")
    pool.first_token(probe, 0.2)
    for _ in range(2):
        pool.send("b")

    pool.settle(probe, AttemptResult.CANCELLED)

    assert pool.allowance("b", in_flight=2) == 0


def test_attempts_of_before_do_not_close_the_breaker() -> None:
    pool = Pool("a", "b")
    old = [pool.send("b") for _ in range(10)]
    pool.fail("b", 5)
    pool.pass_time(2.5)
    assert pool.allowance("b", in_flight=10) == 1

    for permit in old:
        pool.first_token(permit, 0.2)
        pool.settle(permit)

    assert pool.snapshot("b").breaker is BreakerState.HALF_OPEN
    assert pool.allowance("b") == 1


def test_only_replica_is_used_however_it_fails() -> None:
    pool = Pool("a")

    pool.fail("a", 100)

    assert pool.allowance("a") > 0


def test_at_most_half_of_the_replicas_are_out_of_service() -> None:
    pool = Pool("a", "b", "c", "d", "e")

    for engine_id in pool.ids:
        pool.fail(engine_id, 20)

    assert [pool.standing(engine_id) == BROKEN for engine_id in pool.ids].count(True) == 2


def test_replica_is_taken_back_when_those_in_service_leave() -> None:
    pool = Pool("a", "b", "c", "d")
    pool.fail("a", 5)
    pool.now = 0.01
    pool.fail("b", 5)

    pool.policies.forget("c")

    assert pool.allowance("a") > 0
    assert pool.allowance("b") == 0


def test_live_replica_is_taken_back_when_the_others_fall_silent() -> None:
    pool = Pool("a", "b")
    pool.fail("a", 5)
    pool.pass_time(1.0)

    for _ in range(25):
        pool.now += 0.1
        pool.policies.reported(status("a"), pool.now)

    assert pool.standing("a") == OPEN


def test_last_live_replica_stays_in_service_although_others_that_are_silent_count_as_ready() -> None:
    pool = Pool("a", "b", "c", "d")
    pool.fail("a", 5)
    for _ in range(25):
        pool.now += 0.1
        pool.policies.reported(status("a"), pool.now)
        pool.policies.reported(status("b"), pool.now)

    pool.fail("b", 20)

    assert pool.allowance("b") > 0


def test_failures_of_a_forgotten_replica_do_not_bring_a_slow_one_back() -> None:
    pool = Pool("a", "b", "c")
    pool.make_slow("a")
    old = [pool.send("b") for _ in range(10)]
    pool.policies.forget("b")

    for permit in old:
        pool.settle(permit, AttemptResult.LOST)

    assert pool.standing("a") == EJECTED


def test_failing_replica_takes_the_place_of_a_slow_one_out_of_service() -> None:
    pool = Pool("a", "b", "c")
    pool.make_slow("a")
    assert pool.standing("a") == EJECTED

    pool.fail("b", 6)

    assert pool.standing("a") == OPEN
    assert pool.standing("b") == BROKEN
