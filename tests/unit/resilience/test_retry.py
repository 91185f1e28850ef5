from __future__ import annotations

import random
from statistics import mean

from serve_app.resilience.retry import Backoff, RetryConfig

CONFIG = RetryConfig(max_retries=2, base_delay_s=0.1, max_delay_s=1.0)


def delays(retry: int, retry_after_s: float | None = None) -> list[float]:
    backoff, rng = Backoff(CONFIG), random.Random(1)
    return [backoff.delay_s(retry, rng, retry_after_s) for _ in range(2000)]


def test_a_stream_is_retried_as_often_as_configured() -> None:
    assert [Backoff(CONFIG).may_retry(retries) for retries in range(4)] == [True, True, False, False]


def test_the_pause_is_drawn_from_the_whole_range() -> None:
    drawn = delays(0)
    assert 0.0 <= min(drawn) < 0.001
    assert 0.099 < max(drawn) <= 0.1
    assert 0.048 < mean(drawn) < 0.052


def test_the_range_doubles_with_each_retry_up_to_its_bound() -> None:
    longest = [max(delays(retry)) for retry in range(6)]
    for found, bound in zip(longest, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=True):
        assert 0.99 * bound < found <= bound


def test_any_number_of_retries_has_a_finite_pause() -> None:
    assert max(delays(10_000)) <= 1.0


def test_retry_after_is_a_lower_bound_that_keeps_its_jitter() -> None:
    drawn = delays(0, 5.0)
    assert min(drawn) >= 5.0
    assert 0.09 < max(drawn) - min(drawn) <= 0.1


def test_a_retry_after_in_the_past_is_none() -> None:
    assert min(delays(0, -3.0)) >= 0.0
