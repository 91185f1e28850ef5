from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.resilience.slow_start import SlowStart, SlowStartConfig

CONFIG = SlowStartConfig(ramp_s=10.0, ramp_successes=16)
SHARE = 64


def newcomer(founders: int = 0) -> SlowStart:
    it = SlowStart(CONFIG)
    it.begin(0.0, founders)
    return it


def succeed(it: SlowStart, times: int, now: float) -> None:
    for _ in range(times):
        it.succeeded(it.epoch, now)


def test_new_replica_beside_established_ones_gets_one_call() -> None:
    assert newcomer().places(SHARE, 0.0) == 1


def test_age_alone_does_not_raise_the_share() -> None:
    assert newcomer().places(SHARE, 1000.0) == 1


def test_successes_alone_do_not_raise_the_share() -> None:
    it = newcomer()

    succeed(it, 100, 0.0)

    assert it.places(SHARE, 0.0) == 1
    assert it.ramping


def test_share_grows_with_age_and_successes_until_it_is_full() -> None:
    it = newcomer()

    succeed(it, 8, 5.0)
    halfway = it.places(SHARE, 5.0)
    succeed(it, 8, 10.0)

    assert halfway == SHARE // 2
    assert not it.ramping
    assert it.places(SHARE, 10.0) == SHARE


def test_ramp_whose_successes_came_early_ends_with_time() -> None:
    it = newcomer()
    succeed(it, 16, 1.0)

    it.aged(9.9)
    assert it.ramping
    it.aged(10.0)

    assert not it.ramping


def test_every_success_allows_one_more_call_in_a_small_replica() -> None:
    it = newcomer()
    now = 10.0

    allowed = []
    for _ in range(3):
        allowed.append(it.places(4, now))
        succeed(it, 1, now)

    assert allowed == [1, 2, 3]


def test_founders_share_their_first_places_and_ramp_by_successes_alone() -> None:
    alone, one_of_four = newcomer(founders=1), newcomer(founders=4)

    assert (alone.places(SHARE, 0.0), one_of_four.places(SHARE, 0.0)) == (4, 2)
    succeed(alone, 16, 0.0)

    assert alone.places(SHARE, 0.0) == SHARE


def test_newcomer_whose_established_neighbours_leave_becomes_a_founder() -> None:
    it = newcomer()
    succeed(it, 8, 0.1)
    assert it.places(SHARE, 0.1) == 1

    it.adopt(1)

    assert it.places(SHARE, 0.1) >= SHARE // 2


def test_calls_from_before_the_ramp_neither_fill_nor_prove_it() -> None:
    it = SlowStart(CONFIG)
    old = [it.dispatched() for _ in range(60)]
    it.begin(0.0, 0)

    assert it.places(SHARE, 0.0) == 1
    new = it.dispatched()
    assert it.places(SHARE, 0.0) == 0
    for epoch in old:
        it.succeeded(epoch, 100.0)
        it.settled(epoch)
    assert it.places(SHARE, 100.0) == 0
    it.settled(new)

    assert it.places(SHARE, 100.0) == 1


@given(
    st.integers(1, 512),
    st.integers(0, 5),
    st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=60),
)
def test_one_call_may_always_be_in_flight_and_never_more_than_the_share(
    share: int, founders: int, script: list[tuple[bool, float]]
) -> None:
    it = newcomer(founders)
    now, in_flight = 0.0, 0
    for succeeds, seconds in script:
        now += seconds
        it.aged(now)
        assert 1 <= it.places(share, now) + in_flight <= share
        assert 0.0 <= it.fraction(now) <= 1.0
        if succeeds:
            succeed(it, 1, now)
        elif it.places(share, now) > 0:
            it.dispatched()
            in_flight += 1
