from __future__ import annotations

import pytest

from serve_app.core.request import Priority
from serve_app.resilience.waiting import Waiting
from serve_app.resilience.waiting_line import WaitingLine


def waits(stream_id: int, tenant: str = "a") -> Waiting:
    return Waiting(stream_id, tenant, Priority.DEFAULT, 10, 5, float(stream_id))


def make_line(*streams: Waiting, limit: int = 5) -> WaitingLine:
    line = WaitingLine(limit)
    for waiting in streams:
        assert line.join(waiting)
    return line


def nothing_held(tenant: str) -> float:
    return 0.0


def test_the_line_is_bounded():
    line = make_line(waits(1), limit=1)

    assert not line.join(waits(2))
    assert list(line) == [1]
    assert not line.has_room


def test_the_tenant_that_holds_least_is_next_with_its_first_stream():
    line = make_line(waits(1, "a"), waits(2, "b"), waits(3, "b"))

    assert line.next({"a": 0.5, "b": 0.1}.__getitem__).stream_id == 2


def test_of_tenants_that_hold_the_same_the_one_that_waits_longest_is_next():
    line = make_line(waits(2, "b"), waits(1, "a"))

    assert line.next(nothing_held).stream_id == 1


def test_nobody_is_next_in_an_empty_line():
    with pytest.raises(ValueError):
        make_line().next(nothing_held)


def test_whoever_joins_first_is_before_all_others_and_before_its_own():
    line = make_line(waits(2, "b"), waits(3, "a"))

    assert line.join_first(waits(1, "a")) is None
    assert list(line) == [1, 2, 3]
    line.leave(2)
    assert line.next(nothing_held).stream_id == 1
    line.join(waits(4, "b"))
    assert line.next({"a": 0.0, "b": 1.0}.__getitem__).stream_id == 1


def test_in_a_full_line_the_newest_of_the_same_tenant_leaves_for_it():
    line = make_line(waits(2, "a"), waits(3, "a"), waits(4, "b"), limit=3)

    assert line.join_first(waits(1, "a")) == 3
    assert list(line) == [1, 2, 4]


def test_in_a_line_full_of_others_it_leaves_itself():
    line = make_line(waits(2, "b"), limit=1)

    assert line.join_first(waits(1, "a")) == 1
    assert list(line) == [2]


def test_work_and_tenants_are_those_in_line():
    line = make_line(waits(1, "a"), waits(2, "b"))
    assert line.work == 30
    line.leave(1)

    assert line.work == 15
    assert not line.has("a")
    assert line.has("b")
    with pytest.raises(KeyError):
        line.leave(1)
