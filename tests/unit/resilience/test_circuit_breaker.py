from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from serve_app.resilience.circuit_breaker import BreakerState, CircuitBreaker, CircuitBreakerConfig

CONFIG = CircuitBreakerConfig(consecutive_failures=3, open_s=2.0)
LATER = 2.0 * 1.2


def breaker() -> CircuitBreaker:
    return CircuitBreaker(CONFIG, random.Random(1))


def opened(now: float = 0.0) -> CircuitBreaker:
    it = breaker()
    for _ in range(3):
        it.failed(it.acquire(now), now)
    assert it.state(now) is BreakerState.OPEN
    return it


def test_failures_in_a_row_open_it() -> None:
    it = breaker()

    results = [it.failed(it.acquire(0.0), 0.0) for _ in range(3)]

    assert results == [False, False, True]
    assert it.places(0.0) == 0


def test_success_ends_a_row_of_failures() -> None:
    it = breaker()

    for _ in range(5):
        for _ in range(2):
            it.failed(it.acquire(0.0), 0.0)
        for _ in range(4):
            it.succeeded(it.acquire(0.0), 0.0)

    assert it.is_closed


def test_high_share_of_failures_opens_it_however_they_are_spread() -> None:
    it = breaker()

    for _ in range(5):
        it.failed(it.acquire(0.0), 0.0)
        it.succeeded(it.acquire(0.0), 0.0)
    it.failed(it.acquire(0.0), 0.0)

    assert not it.is_closed


def test_failures_are_forgotten_with_time() -> None:
    it = breaker()
    for _ in range(2):
        for _ in range(2):
            it.failed(it.acquire(0.0), 0.0)
        for _ in range(3):
            it.succeeded(it.acquire(0.0), 0.0)

    now = 100.0
    for _ in range(11):
        it.succeeded(it.acquire(now), now)
    opens = it.failed(it.acquire(now), now)

    assert not opens


def test_half_open_lets_one_then_two_then_four_calls_through_and_closes() -> None:
    it = opened()
    admitted = []

    while not it.is_closed:
        places = it.places(LATER)
        assert places is not None
        admitted.append(places)
        for generation in [it.acquire(LATER) for _ in range(places)]:
            it.succeeded(generation, LATER)

    assert admitted == [1, 2, 4]


def test_failed_probe_opens_it_again_for_twice_as_long() -> None:
    it = opened()

    it.failed(it.acquire(LATER), LATER)

    assert it.state(LATER + 2 * 2.0 * 0.8 - 0.01) is BreakerState.OPEN
    assert it.state(LATER + 2 * 2.0 * 1.2) is BreakerState.HALF_OPEN


def test_open_time_is_bounded() -> None:
    it = opened()
    now = 0.0
    for _ in range(50):
        now += CONFIG.open_max_s * 1.2
        it.failed(it.acquire(now), now)

    assert it.state(now + CONFIG.open_max_s * 1.2) is BreakerState.HALF_OPEN


def test_opening_long_after_the_last_one_is_short_again() -> None:
    it = opened()
    it.failed(it.acquire(LATER), LATER)
    now = 100.0
    while not it.is_closed:
        it.succeeded(it.acquire(now), now)

    now += CONFIG.open_max_s
    for _ in range(3):
        it.failed(it.acquire(now), now)

    assert it.state(now + LATER) is BreakerState.HALF_OPEN


def test_call_that_told_nothing_gives_its_half_open_place_back() -> None:
    it = opened()
    generation = it.acquire(LATER)
    assert it.places(LATER) == 0

    it.abandoned(generation)

    assert it.places(LATER) == 1


def test_it_stays_closed_when_the_pool_cannot_do_without() -> None:
    it = breaker()

    for _ in range(10):
        it.failed(it.acquire(0.0), 0.0, may_open=False)

    assert it.is_closed
    assert it.should_open


def test_failure_of_a_call_sent_before_it_opened_does_not_end_the_probing() -> None:
    it = breaker()
    before = [it.acquire(0.0) for _ in range(4)]
    for generation in before[:3]:
        it.failed(generation, 0.0)
    probe = it.acquire(LATER)

    it.failed(before[3], LATER)
    it.abandoned(before[3])

    assert it.state(LATER) is BreakerState.HALF_OPEN
    assert it.places(LATER) == 0
    it.succeeded(probe, LATER)
    assert it.places(LATER) == 2


def test_success_of_a_call_sent_before_it_opened_does_not_close_it() -> None:
    it = breaker()
    before = [it.acquire(0.0) for _ in range(20)]
    for generation in before[:3]:
        it.failed(generation, 0.0)
    assert it.places(LATER) == 1

    for generation in before[3:]:
        it.succeeded(generation, LATER)

    assert it.state(LATER) is BreakerState.HALF_OPEN
    assert it.places(LATER) == 1


calls = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "acquire", "acquire", "succeed", "fail", "fail", "abandon"]),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.0, 0.0, 3.0]),
    ),
    min_size=20,
    max_size=100,
)


@given(calls, st.integers(0, 2**32))
def test_stale_generations_never_move_it(script: list[tuple[str, int, float]], seed: int) -> None:
    """The same script, with reports of older generations left out, ends in the same state at every step."""
    full = CircuitBreaker(CONFIG, random.Random(seed))
    sparse = CircuitBreaker(CONFIG, random.Random(seed))
    held: list[int] = []
    now = 0.0
    for what, which, seconds in script:
        now += seconds
        if what == "acquire":
            held.append(full.acquire(now))
            assert sparse.acquire(now) == held[-1]
        elif held:
            generation = held.pop(which % len(held))
            stale = generation != sparse.generation
            for it in (full,) if stale else (full, sparse):
                if what == "succeed":
                    it.succeeded(generation, now)
                elif what == "fail":
                    it.failed(generation, now)
                else:
                    it.abandoned(generation)
        assert full.state(now) is sparse.state(now)
        assert full.places(now) == sparse.places(now)
        assert full.generation == sparse.generation


@given(calls, st.integers(0, 2**32))
def test_half_open_never_holds_more_calls_than_its_stage(script: list[tuple[str, int, float]], seed: int) -> None:
    it = CircuitBreaker(CONFIG, random.Random(seed))
    held: list[int] = []
    now = 0.0
    for what, which, seconds in script:
        now += seconds
        if what == "acquire":
            if it.places(now) != 0:
                held.append(it.acquire(now))
        elif held:
            generation = held.pop(which % len(held))
            if what == "succeed":
                it.succeeded(generation, now)
            elif what == "fail":
                it.failed(generation, now)
            else:
                it.abandoned(generation)
        if it.state(now) is BreakerState.HALF_OPEN:
            assert sum(g == it.generation for g in held) <= 4
            places = it.places(now)
            assert places is not None and 0 <= places <= 4
