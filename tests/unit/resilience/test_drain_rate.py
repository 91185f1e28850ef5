from __future__ import annotations

import random

import pytest

from serve_app.core.retry_advice import LEAST_S, LONGEST_S
from serve_app.resilience.drain_rate import DrainRate


def work(drain: DrainRate, start: float, seconds: float, tokens_per_s: float, interval_s: float = 0.1) -> float:
    """Departures of equal size; returns the time of the last."""
    for step in range(1, round(seconds / interval_s) + 1):
        drain.departed(tokens_per_s * interval_s, start + step * interval_s)
    return start + seconds


def busy(tokens_per_s: float = 1000.0, seconds: float = 30.0, interval_s: float = 0.1) -> tuple[DrainRate, float]:
    drain = DrainRate()
    drain.backlogged(True, 0.0)
    return drain, work(drain, 0.0, seconds, tokens_per_s, interval_s)


def test_a_cold_system_knows_no_wait():
    drain = DrainRate()
    assert drain.wait_s(100, 5.0) is None

    drain.backlogged(True, 10.0)
    assert drain.wait_s(100, 10.5) is None


def test_nothing_ahead_is_no_wait_even_in_a_cold_system():
    assert DrainRate().wait_s(0, 1.0) == 0.0


def test_a_backlog_without_any_departure_says_nothing_of_the_speed():
    drain = DrainRate()
    drain.backlogged(True, 0.0)

    assert drain.wait_s(100, 60.0) is None


def test_wait_is_tokens_ahead_over_the_rate():
    drain, now = busy(1000.0)

    assert drain.wait_s(5000, now) == pytest.approx(5.0, rel=0.02)


def test_the_first_second_of_a_backlog_already_gives_the_true_rate():
    drain, now = busy(1000.0, seconds=1.2)

    assert drain.rate(now) == pytest.approx(1000.0, rel=0.02)


def test_light_load_does_not_pass_for_low_capacity():
    drain = DrainRate()
    for second in range(100):
        drain.departed(10, float(second))
    assert drain.rate(100.0) is None

    drain.backlogged(True, 100.0)
    now = work(drain, 100.0, 2.0, 5000.0)
    assert drain.rate(now) == pytest.approx(5000.0, rel=0.02)


def test_light_load_between_two_backlogs_leaves_the_rate_as_it_was():
    drain, now = busy(1000.0)
    drain.backlogged(False, now)
    now = work(drain, now, 20.0, 10.0)

    assert drain.rate(now) == pytest.approx(1000.0, rel=0.02)


def test_after_a_long_pause_the_old_rate_is_not_known_any_more():
    drain, now = busy(1000.0)
    drain.backlogged(False, now)

    assert drain.rate(now + 60.0) is not None
    assert drain.rate(now + 600.0) is None


def test_after_a_pause_new_observations_outweigh_old_ones():
    fresh, now = busy(1000.0)
    paused, _ = busy(1000.0)
    paused.backlogged(False, now)
    paused.backlogged(True, now + 90.0)
    for drain, start in ((fresh, now), (paused, now + 90.0)):
        work(drain, start, 3.0, 4000.0)

    rates = fresh.rate(now + 3.0), paused.rate(now + 93.0)
    assert rates[0] is not None
    assert rates[1] is not None
    assert 1500 < rates[0] < 2500 < rates[1] < 4000


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_changed_rate_is_learned_within_three_memories(factor):
    drain, now = busy(1000.0)
    now = work(drain, now, 30.0, 1000.0 * factor)

    assert drain.rate(now) == pytest.approx(1000.0 * factor, rel=0.25)


def test_lumps_of_a_whole_batch_do_not_swing_the_rate_by_more_than_its_memory_allows():
    drain = DrainRate(memory_s=10.0)
    drain.backlogged(True, 0.0)
    rates = []
    for lump in range(1, 40):
        for step in range(5):
            if lump > 20:
                rates.append(drain.rate((lump - 1) * 5.0 + step))
        drain.departed(5000, lump * 5.0)

    assert all(rate is not None and 700 < rate < 1400 for rate in rates)
    assert sum(rate or 0.0 for rate in rates) / len(rates) == pytest.approx(1000.0, rel=0.1)


def test_a_standstill_lengthens_the_wait_while_it_lasts():
    drain, now = busy(1000.0)
    waits = [drain.wait_s(1000, now + seconds) or 0.0 for seconds in (0, 5, 10, 20)]

    assert waits == sorted(waits)
    assert waits[-1] > 5.0


def test_asking_changes_no_answer():
    asked, now = busy(1000.0)
    quiet, _ = busy(1000.0)
    for step in range(1, 100):
        asked.rate(now + step * 0.01)

    assert asked.rate(now + 1.0) == pytest.approx(quiet.rate(now + 1.0))


def test_retry_after_grows_with_the_backlog_and_shrinks_with_the_rate():
    (slow, now), (fast, _) = busy(1000.0), busy(10_000.0)
    rng = random.Random(1)

    assert 0.79 * 20 <= slow.retry_after_s(20_000, now, rng) <= 1.21 * 20
    assert fast.retry_after_s(20_000, now, rng) <= 1.21 * 2


def test_retry_after_stays_within_its_bounds():
    rng = random.Random(2)
    for drain, now in ((DrainRate(), 0.0), busy(1000.0), busy(1.0)):
        for ahead in (0, 500, 10_000_000):
            for _ in range(50):
                assert LEAST_S <= drain.retry_after_s(ahead, now, rng) <= LONGEST_S


@pytest.mark.parametrize("ahead", [0, 10_000, 10_000_000])
def test_retry_after_never_sends_all_clients_back_at_once(ahead):
    drain, now = busy(1000.0)
    rng = random.Random(3)
    waits = [drain.retry_after_s(ahead, now, rng) for _ in range(200)]

    assert len(set(waits)) == 200
    assert max(waits) > 1.2 * min(waits)
