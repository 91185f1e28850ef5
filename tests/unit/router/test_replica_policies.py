from __future__ import annotations

import random

import pytest

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.replica_policies import (
    AttemptResult,
    Permit,
    ReplicaPolicies,
    ReplicaPoliciesConfig,
    ReplicaSnapshot,
)

CAPACITY = 64
WARM = 10_000
OPEN, PROBE, EJECTED, BROKEN = "open", "probe", "ejected", "broken"
FAILURES = [AttemptResult.FAILED, AttemptResult.STALLED, AttemptResult.TIMED_OUT, AttemptResult.LOST]


def status(
    engine_id: str,
    generated: int = WARM,
    capacity: int = CAPACITY,
    routers: int = 1,
    generations: int = 0,
    ready: bool = True,
    running: int = 0,
    waiting: int = 0,
    steps: int = 0,
) -> EngineStatus:
    load = EngineLoad(running, waiting, 0.1, steps, generated)
    return EngineStatus(engine_id, "m", load, capacity, generations, routers, ready, 2048)


class Pool:
    """A router's policies, driven with a clock of its own."""

    def __init__(self, *engine_ids: str, generated: int = WARM, routers: int = 1) -> None:
        self.policies = ReplicaPolicies(ReplicaPoliciesConfig(), random.Random(5))
        self.now = 0.0
        self.ids = engine_ids
        self.routers = routers
        for engine_id in engine_ids:
            self.policies.reported(status(engine_id, generated, routers=routers), self.now)

    def allowance(self, engine_id: str, in_flight: int = 0) -> int:
        return self.policies.allowance(engine_id, in_flight, self.now)

    def send(self, engine_id: str, prompt_tokens: int = 100) -> Permit:
        return self.policies.dispatched(engine_id, self.now, prompt_tokens)

    def first_token(self, permit: Permit, ttft_s: float) -> None:
        self.policies.first_token(permit, ttft_s, 100, self.now)

    def settle(self, permit: Permit, result: AttemptResult = AttemptResult.SUCCEEDED) -> None:
        self.policies.settled(permit, result, self.now)

    def serve(self, engine_id: str, times: int = 1, ttft_s: float = 0.2, tpot_s: float | None = 0.01) -> None:
        for _ in range(times):
            permit = self.send(engine_id)
            self.first_token(permit, ttft_s)
            self.policies.settled(permit, AttemptResult.SUCCEEDED, self.now, tpot_s)

    def fail(self, engine_id: str, times: int, result: AttemptResult = AttemptResult.FAILED) -> None:
        for permit in [self.send(engine_id) for _ in range(times)]:
            self.settle(permit, result)

    def pass_time(self, seconds: float, serving: tuple[str, ...] = ()) -> None:
        """Time with heartbeats and reviews, during which `serving` replicas answer ten requests a second."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            for engine_id in self.ids:
                self.policies.reported(status(engine_id, routers=self.routers), self.now)
            for engine_id in serving:
                self.serve(engine_id)
            self.policies.watch(self.now)

    def standing(self, engine_id: str) -> str:
        """In service, out of it for slowness or for failures, or to be probed: from what may be sent and what metrics
        show."""
        may_be_sent = self.allowance(engine_id, self.snapshot(engine_id).in_flight) > 0
        shown = self.snapshot(engine_id)
        if not shown.ejected and shown.breaker is BreakerState.CLOSED:
            return OPEN
        return PROBE if may_be_sent else EJECTED if shown.ejected else BROKEN

    def snapshot(self, engine_id: str) -> ReplicaSnapshot:
        return next(s for s in self.policies.snapshot(self.now) if s.engine_id == engine_id)

    def make_slow(self, engine_id: str) -> None:
        for other in self.ids:
            self.serve(other, times=8, ttft_s=2.0 if other == engine_id else 0.2)
        self.pass_time(2.2)


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


# --- breaker


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


# --- slowness


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
