from __future__ import annotations

from contextlib import ExitStack

from serve_app.core.departure import Departure


def test_a_replica_that_was_never_listed_does_not_leave() -> None:
    departure = Departure()
    departure.observe(listed=False)
    assert not departure.leaving


def test_who_listens_is_told_once() -> None:
    departure, told = Departure(), []
    departure.observe(listed=True)
    with departure.told_to(lambda: told.append(1)):
        departure.observe(listed=True)
        assert told == []
        departure.observe(listed=False)
        departure.observe(listed=False)
    assert told == [1]
    assert departure.leaving


def test_who_comes_late_is_told_at_once() -> None:
    departure, told = Departure(), []
    departure.observe(listed=True)
    departure.observe(listed=False)
    with departure.told_to(lambda: told.append(1)):
        assert told == [1]


def test_who_has_gone_is_not_told() -> None:
    departure, told = Departure(), []
    departure.observe(listed=True)
    with departure.told_to(lambda: told.append(1)):
        pass
    departure.observe(listed=False)
    assert told == []


def test_a_replica_that_is_listed_again_stays() -> None:
    departure, told = Departure(), []
    with departure.told_to(lambda: told.append(1)):
        for listed in (True, False, True):
            departure.observe(listed)
        assert not departure.leaving
        departure.observe(listed=False)
    assert told == [1, 1]


def test_listeners_may_go_when_they_are_told() -> None:
    departure, told = Departure(), []
    departure.observe(listed=True)
    with ExitStack() as first:
        first.enter_context(departure.told_to(first.close))
        with departure.told_to(lambda: told.append(1)):
            departure.observe(listed=False)
    assert told == [1]
