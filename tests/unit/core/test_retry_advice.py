from __future__ import annotations

import pytest

from serve_app.core.errors import QueueFull
from serve_app.core.retry_advice import LEAST_S, LONGEST_S, NO_ENGINE_S, bounded_s, spread_s


@pytest.mark.parametrize(("seconds", "told"), [(-5.0, 1.0), (0.0, 1.0), (7.5, 7.5), (600.0, 60.0)])
def test_advice_is_bounded(seconds: float, told: float) -> None:
    assert bounded_s(seconds) == told


@pytest.mark.parametrize(
    ("expected", "low", "high"), [(10.0, 8.0, 12.0), (0.0, 1.0, 1.4), (1.1, 1.0, 1.4), (900.0, 48.0, 60.0)]
)
def test_clients_are_spread_within_the_bounds(expected: float, low: float, high: float) -> None:
    assert spread_s(expected) == pytest.approx((low, high))


@pytest.mark.parametrize("expected", [0.0, 0.5, 1.0, 1.2, 5.0, 59.0, 60.0, 1e9])
def test_no_two_waits_are_the_same_for_all(expected: float) -> None:
    low, high = spread_s(expected)
    assert LEAST_S <= low < high <= LONGEST_S


def test_what_knows_no_better_advises_the_least() -> None:
    assert QueueFull("full").retry_after_s == LEAST_S
    assert LEAST_S < NO_ENGINE_S[0] < NO_ENGINE_S[1] < LONGEST_S
