from __future__ import annotations

from serve_app.core.events import Accepted
from serve_app.engine.retained_log import RetainedLog

KEY, OTHER = ("router", 1, 1), ("router", 2, 1)


def events(count: int) -> list[Accepted]:
    return [Accepted(1, [number]) for number in range(count)]


def ended(log: RetainedLog, key, count: int, now: float) -> None:
    log.open(key).extend(events(count))
    log.end(key, now)


def test_running_generation_is_read_from_any_number_on():
    log = RetainedLog(keep_s=10, keep_events=100)
    log.open(KEY).extend(events(3))

    assert log.read(KEY, 1) == events(3)[1:]
    assert log.read(KEY, 3) == []


def test_unknown_generation_is_told_from_one_without_news():
    assert RetainedLog(keep_s=10, keep_events=100).read(KEY, 0) is None


def test_ended_generation_is_kept_for_its_time():
    log = RetainedLog(keep_s=10, keep_events=100)
    ended(log, KEY, 3, now=0.0)

    log.expire(9.9)
    assert log.read(KEY, 0) == events(3)
    log.expire(10.0)
    assert log.read(KEY, 0) is None


def test_oldest_ended_generations_go_when_there_are_too_many_events():
    log = RetainedLog(keep_s=1000, keep_events=10)
    ended(log, KEY, 6, now=0.0)
    ended(log, OTHER, 6, now=1.0)

    assert log.read(KEY, 0) is None
    assert log.read(OTHER, 0) == events(6)


def test_running_generation_is_kept_whatever_its_size():
    log = RetainedLog(keep_s=1, keep_events=1)
    log.open(KEY).extend(events(50))
    log.expire(100.0)

    assert log.read(KEY, 0) == events(50)
