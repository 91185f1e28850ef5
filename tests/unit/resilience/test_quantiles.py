from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.resilience.quantiles import RecentQuantiles


def filled(values: list[float], size: int = 256) -> RecentQuantiles:
    quantiles = RecentQuantiles(size)
    for value in values:
        quantiles.learn(value, 0.0)
    return quantiles


def test_nothing_is_known_without_observations() -> None:
    assert RecentQuantiles().quantile(0.5, 0.0) is None
    assert RecentQuantiles().count(0.0) == 0


@pytest.mark.parametrize(("q", "expected"), [(0.01, 1.0), (0.5, 50.0), (0.95, 95.0), (0.951, 96.0), (1.0, 100.0)])
def test_a_quantile_is_the_observation_of_nearest_rank(q: float, expected: float) -> None:
    assert filled([float(i) for i in range(100, 0, -1)]).quantile(q, 0.0) == expected


def test_only_the_newest_observations_count() -> None:
    quantiles = filled([100.0] * 50 + [1.0] * 10, size=10)
    assert quantiles.count(0.0) == 10
    assert quantiles.quantile(1.0, 0.0) == 1.0


def test_old_observations_are_forgotten() -> None:
    quantiles = RecentQuantiles(max_age_s=60.0)
    quantiles.learn(9.0, 0.0)
    quantiles.learn(1.0, 50.0)
    assert quantiles.quantile(1.0, 60.0) == 9.0
    assert quantiles.quantile(1.0, 61.0) == 1.0
    assert quantiles.quantile(1.0, 111.0) is None


def test_a_query_sees_new_observations_within_a_second_however_few() -> None:
    quantiles = filled([1.0] * 100)
    assert quantiles.quantile(1.0, 0.0) == 1.0
    quantiles.learn(7.0, 0.1)
    assert quantiles.quantile(1.0, 0.5) == 1.0
    assert quantiles.quantile(1.0, 1.0) == 7.0


def test_a_query_sees_many_new_observations_at_once() -> None:
    quantiles = filled([1.0] * 100)
    assert quantiles.quantile(1.0, 0.0) == 1.0
    for _ in range(7):
        quantiles.learn(7.0, 0.0)
    assert quantiles.quantile(1.0, 0.0) == 7.0


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=400), st.floats(0.001, 1.0))
def test_at_least_a_share_q_of_the_window_is_no_larger(values: list[float], q: float) -> None:
    window = values[-256:]
    found = filled(values).quantile(q, 0.0)
    assert found is not None
    assert sum(value <= found for value in window) >= math.ceil(q * len(window))
    assert sum(value < found for value in window) < math.ceil(q * len(window))
