"""Replicas that are slower than the others are left alone, and probed."""

from __future__ import annotations

import pytest

from serve_app.router.decisions.replica_policies import AttemptResult, Permit
from tests.unit.router.decisions.policed_pool import CAPACITY, EJECTED, OPEN, PROBE, Pool, status


def test_slow_replica_is_ejected_and_gets_a_probe_after_a_while() -> None:
    pool = Pool("a", "b", "c", "d")
    pool.make_slow("c")
    assert (pool.standing("c"), pool.allowance("c")) == (EJECTED, 0)

    pool.pass_time(10.0, serving=("a", "b", "d"))

    assert (pool.standing("c"), pool.allowance("c")) == (PROBE, 1)
    pool.send("c")
    assert (pool.standing("c"), pool.allowance("c", in_flight=1)) == (EJECTED, 0)


def test_slow_replica_is_probed_sooner_when_the_rest_of_the_pool_is_full() -> None:
    pool = Pool("a", "b", "c", "d")
    pool.make_slow("c")
    pool.pass_time(7.0)
    assert pool.standing("c") == EJECTED

    for engine_id in ("a", "b", "d"):
        for _ in range(CAPACITY):
            pool.send(engine_id)
    pool.pass_time(2.0)

    assert pool.standing("c") == PROBE


def test_replica_that_answers_nothing_is_ejected_within_seconds() -> None:
    pool = Pool("a", "b", "c", "d")
    pool.pass_time(1.0, serving=pool.ids)

    for _ in range(6):
        pool.send("d")
    pool.pass_time(4.0, serving=("a", "b", "c"))

    assert pool.standing("d") == EJECTED


def test_engine_with_a_queue_is_not_ejected_for_the_first_tokens_that_waited_in_it() -> None:
    pool = Pool("a", "b", "c", "d")
    for engine_id in pool.ids:
        pool.serve(engine_id, times=8, ttft_s=2.0 if engine_id == "c" else 0.2)

    for _ in range(40):
        pool.now += 0.1
        for engine_id in pool.ids:
            waiting = 20 if engine_id == "c" else 0
            pool.policies.reported(status(engine_id, running=16, waiting=waiting), pool.now)
        pool.policies.watch(pool.now)

    assert pool.standing("c") == OPEN


def probing(pool: Pool, slow: str) -> Permit:
    pool.make_slow(slow)
    others = tuple(engine_id for engine_id in pool.ids if engine_id != slow)
    pool.pass_time(10.0, serving=others)
    assert pool.allowance(slow) == 1
    return pool.send(slow)


def test_fast_probe_brings_the_replica_back_through_slow_start() -> None:
    pool = Pool("a", "b", "c", "d")
    probe = probing(pool, "c")

    pool.first_token(probe, 0.2)
    pool.policies.settled(probe, AttemptResult.SUCCEEDED, pool.now, tpot_s=0.01)

    assert pool.standing("c") == OPEN
    assert pool.allowance("c") == 1


@pytest.mark.parametrize(("ttft_s", "tpot_s"), [(2.0, 0.01), (0.2, 0.5)])
def test_probe_with_a_slow_start_or_slow_tokens_keeps_the_replica_out(ttft_s: float, tpot_s: float) -> None:
    pool = Pool("a", "b", "c", "d")
    probe = probing(pool, "c")

    pool.first_token(probe, ttft_s)
    pool.policies.settled(probe, AttemptResult.SUCCEEDED, pool.now, tpot_s=tpot_s)

    assert (pool.standing("c"), pool.allowance("c")) == (EJECTED, 0)


def test_probe_that_still_waits_for_its_first_token_is_judged_before_it_ends() -> None:
    pool = Pool("a", "b", "c", "d")
    probe = probing(pool, "c")

    pool.pass_time(30.0, serving=("a", "b", "d"))

    assert pool.standing("c") == PROBE
    pool.settle(probe)
    assert pool.standing("c") == PROBE


def test_cancelled_probe_is_replaced_at_once() -> None:
    pool = Pool("a", "b", "c", "d")
    probe = probing(pool, "c")

    pool.settle(probe, AttemptResult.CANCELLED)

    assert pool.standing("c") == PROBE


def test_probe_that_is_cancelled_after_a_long_wait_was_slow() -> None:
    pool = Pool("a", "b", "c", "d")
    probe = probing(pool, "c")

    pool.now += 3.0
    pool.settle(probe, AttemptResult.CANCELLED)

    assert pool.standing("c") == EJECTED


def test_pace_of_a_running_probe_decides_before_the_stream_ends() -> None:
    pool = Pool("a", "b", "c", "d")
    probe = probing(pool, "c")
    pool.first_token(probe, 0.2)

    for tick in range(20):
        pool.now += 0.1
        for engine_id in pool.ids:
            pool.policies.reported(status(engine_id, running=4, steps=10 * tick), pool.now)
        pool.policies.watch(pool.now)

    assert pool.standing("c") == OPEN


def test_cold_replica_of_a_new_pool_is_ejected_by_its_first_slow_call() -> None:
    pool = Pool("a", "b", "c", "d", generated=0)
    pool.send("d")

    pool.pass_time(2.0, serving=("a", "b", "c"))

    assert pool.standing("d") == EJECTED


def test_slow_replicas_beyond_half_of_the_pool_stay_in_service() -> None:
    pool = Pool("a", "b", "c", "d", "e")
    for engine_id in pool.ids:
        pool.serve(engine_id, times=8, ttft_s={"a": 2.0, "b": 4.0}.get(engine_id, 0.2))
    pool.fail("c", 5)

    pool.pass_time(2.2)

    assert [s.ejected for s in pool.policies.snapshot(pool.now)] == [False, True, False, False, False]
