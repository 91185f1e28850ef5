from __future__ import annotations

import random

from serve_app.resilience.drain_rate import MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, DrainRate


def departed_every(interval_s: float) -> DrainRate:
    drain = DrainRate()
    for turn in range(50):
        drain.departed(turn * interval_s)
    return drain


def test_retry_after_grows_with_the_queue_and_shrinks_with_the_rate():
    slow, fast = departed_every(1.0), departed_every(0.1)
    rng = random.Random(1)

    assert 0.8 * 21 <= slow.retry_after_s(20, rng) <= 1.2 * 21
    assert fast.retry_after_s(20, rng) < slow.retry_after_s(20, rng)


def test_retry_after_stays_within_its_bounds():
    rng = random.Random(2)
    for ahead in (0, 5, 10_000):
        for drain in (DrainRate(), departed_every(0.0), departed_every(100.0)):
            assert MIN_RETRY_AFTER_S <= drain.retry_after_s(ahead, rng) <= MAX_RETRY_AFTER_S


def test_retry_after_is_jittered_even_at_its_lower_bound():
    drain, rng = departed_every(0.001), random.Random(3)

    assert len({drain.retry_after_s(0, rng) for _ in range(20)}) > 10
