from __future__ import annotations

import pytest

from serve_app.resilience.wake_bound import WakeBound


@pytest.fixture
def bound() -> WakeBound:
    return WakeBound(least_s=60.0, most_s=600.0)


def wake(bound: WakeBound, now: float, load_s: float) -> float:
    """A request finds the model asleep, which then loads for `load_s` seconds; when it is ready."""
    bound.looked(ready=False, wanted=True, now=now)
    bound.looked(ready=True, wanted=True, now=now + load_s)
    return now + load_s


def test_floor_holds_until_a_load_was_seen(bound: WakeBound) -> None:
    assert bound.hold_s == 60.0


def test_bound_is_three_times_the_longest_of_the_last_loads(bound: WakeBound) -> None:
    wake(bound, 0.0, 100.0)
    assert bound.hold_s == 300.0
    wake(bound, 1000.0, 50.0)
    assert bound.hold_s == 300.0
    for start in range(2000, 7000, 1000):
        wake(bound, float(start), 40.0)
    assert bound.hold_s == 120.0


def test_bound_has_a_ceiling_and_a_floor(bound: WakeBound) -> None:
    wake(bound, 0.0, 5.0)
    assert bound.hold_s == 60.0
    wake(bound, 1000.0, 5000.0)
    assert bound.hold_s == 600.0


def test_sleep_that_nobody_waits_through_is_no_load(bound: WakeBound) -> None:
    bound.looked(ready=True, wanted=False, now=0.0)
    bound.looked(ready=False, wanted=False, now=10.0)
    bound.looked(ready=False, wanted=True, now=500.0)
    bound.looked(ready=True, wanted=True, now=540.0)
    assert bound.hold_s == 120.0


def test_wait_that_was_given_up_is_no_load(bound: WakeBound) -> None:
    bound.looked(ready=False, wanted=True, now=0.0)
    bound.looked(ready=False, wanted=False, now=30.0)
    bound.looked(ready=False, wanted=True, now=1000.0)
    bound.looked(ready=True, wanted=True, now=1050.0)
    assert bound.hold_s == 150.0


def test_request_is_held_for_the_whole_bound(bound: WakeBound) -> None:
    bound.looked(ready=False, wanted=True, now=10.0)
    assert not bound.held_too_long(10.0, 69.9)
    assert bound.held_too_long(10.0, 70.0)
    assert not bound.held_too_long(40.0, 70.0), "it came later"


def test_request_that_waits_when_the_last_engine_goes_gets_the_whole_bound_from_then(bound: WakeBound) -> None:
    bound.looked(ready=True, wanted=True, now=50.0)
    assert not bound.held_too_long(0.0, 65.0), "an engine is there"
    bound.looked(ready=False, wanted=True, now=70.0)
    assert not bound.held_too_long(0.0, 129.9)
    assert bound.held_too_long(0.0, 130.0)


def test_wait_for_the_model_is_not_counted_as_wait_for_a_place(bound: WakeBound) -> None:
    ready_at = wake(bound, 0.0, 100.0)
    bound.looked(ready=True, wanted=True, now=110.0)
    assert bound.queued_since(0.0) == ready_at
    assert bound.queued_since(105.0) == 105.0
