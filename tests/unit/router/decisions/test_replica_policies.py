from __future__ import annotations

import pytest

from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.replica_policies import AttemptResult, ReplicaSnapshot
from tests.unit.router.decisions.policed_pool import CAPACITY, Pool, status

# --- limit and share


def test_replica_that_is_known_to_be_warm_gets_its_whole_share_at_once() -> None:
    assert Pool("a").allowance("a", in_flight=10) == CAPACITY - 10


def test_unknown_and_forgotten_replicas_get_nothing() -> None:
    pool = Pool("a", "b")
    pool.policies.forget("b")

    assert pool.allowance("b") == pool.allowance("c") == 0


def test_replica_that_is_not_ready_gets_nothing() -> None:
    pool = Pool("a")

    pool.policies.reported(status("a", ready=False), 0.1)

    assert pool.allowance("a") == 0


def test_limit_is_divided_among_routers_but_each_may_send_one() -> None:
    pool = Pool("a", "b")
    pool.policies.reported(status("a", routers=4, generations=CAPACITY), 0.0)
    pool.policies.reported(status("b", routers=4, capacity=2), 0.0)
    pool.now = 5.0

    assert pool.allowance("a") == CAPACITY // 4
    assert pool.allowance("b") == 1


def test_part_that_other_routers_leave_unused_may_be_used() -> None:
    pool = Pool("a", routers=2)
    for _ in range(32):
        pool.send("a")
    pool.policies.reported(status("a", routers=2, generations=32), 0.1)

    assert pool.allowance("a", in_flight=32) == (CAPACITY - 32) // 2


def test_unused_part_is_lent_once_a_report() -> None:
    pool = Pool("a", routers=2)
    held, after_each_report = 0, []

    for _ in range(4):
        while pool.allowance("a", in_flight=held):
            pool.send("a")
            held += 1
        after_each_report.append(held)
        pool.now += 0.1
        pool.policies.reported(status("a", routers=2, generations=held), pool.now)

    assert after_each_report == [32, 48, 56, 60], "another router that has a burst of its own finds the other half"


def test_part_that_other_routers_have_taken_is_not_there() -> None:
    pool = Pool("a", routers=2)

    pool.policies.reported(status("a", routers=2, generations=60), 0.1)

    assert pool.allowance("a") == CAPACITY - 60


def test_stale_report_leaves_this_routers_own_count_against_its_share() -> None:
    pool = Pool("a", routers=2)
    pool.policies.reported(status("a", routers=2, generations=60), 0.1)

    pool.now = 2.2

    assert pool.allowance("a", in_flight=30) == CAPACITY // 2 - 30


def test_queue_in_the_engine_lowers_what_is_sent() -> None:
    pool = Pool("a")

    for _ in range(20):
        pool.now += 0.1
        pool.policies.reported(status("a", running=16, waiting=48, generations=64), pool.now)

    assert pool.snapshot("a").limit == 17
    assert pool.allowance("a", in_flight=16) == 1


# --- slow start


def test_new_replicas_of_a_new_pool_can_all_be_used() -> None:
    pool = Pool("a", "b", "c", generated=0)

    assert all(pool.allowance(engine_id) > 0 for engine_id in pool.ids)


def test_replica_that_joins_a_working_pool_gets_one_call_until_it_succeeds() -> None:
    pool = Pool("a")
    pool.policies.reported(status("b", generated=0), pool.now)
    pool.now = 1.0

    assert pool.allowance("b") == 1
    permit = pool.send("b")
    assert pool.allowance("b", in_flight=1) == 0
    pool.first_token(permit, 0.2)

    assert pool.allowance("b", in_flight=1) > 0


def test_newcomer_ramps_by_successes_alone_once_the_established_replicas_have_left() -> None:
    pool = Pool("a")
    pool.policies.reported(status("b", generated=0), pool.now)
    pool.serve("b", times=8)
    assert pool.allowance("b") == 1

    pool.policies.forget("a")

    assert pool.allowance("b") >= CAPACITY // 2


def test_replica_whose_counters_ran_back_has_restarted_and_ramps_again() -> None:
    pool = Pool("a", "b")
    pool.now = 0.1

    pool.policies.reported(status("b", generated=0), pool.now)

    assert pool.allowance("b") == 1
    assert pool.snapshot("b").ramp_fraction == 0.0


def test_replica_that_becomes_ready_ramps() -> None:
    pool = Pool("a", "b")
    pool.policies.reported(status("b", ready=False), 0.1)

    pool.policies.reported(status("b"), 0.2)

    assert pool.allowance("b") == 1


def test_slow_first_tokens_do_not_ramp_a_replica_up() -> None:
    pool = Pool("a", "b")
    pool.serve("a", times=8)
    pool.serve("b", times=8)
    pool.pass_time(0.1)
    pool.policies.reported(status("b", generated=0), pool.now)

    pool.now += 5.0
    for _ in range(5):
        pool.first_token(pool.send("b"), 3.0)

    assert pool.snapshot("b").ramp_fraction == 0.0


# --- permits


def test_permit_is_settled_once_and_never_gives_back_more_than_its_place() -> None:
    pool = Pool("a")
    first, second = pool.send("a"), pool.send("a")

    pool.settle(first)
    pool.settle(first, AttemptResult.FAILED)

    assert pool.snapshot("a").in_flight == 1
    pool.settle(second)
    assert pool.snapshot("a").in_flight == 0


def test_permits_of_a_forgotten_replica_do_not_touch_its_successor() -> None:
    pool = Pool("a", "b")
    old = [pool.send("b") for _ in range(10)]
    pool.policies.forget("b")
    pool.policies.reported(status("b"), 0.1)

    for permit in old:
        pool.settle(permit, AttemptResult.LOST)

    assert pool.snapshot("b") == ReplicaSnapshot("b", CAPACITY, 1.0, BreakerState.CLOSED, False, 0)


def test_dispatch_to_an_unknown_replica_is_an_error() -> None:
    with pytest.raises(KeyError):
        Pool("a").send("b")
