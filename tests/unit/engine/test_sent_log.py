from __future__ import annotations

from serve_app.core.events import Accepted, TokenDelta
from serve_app.engine.sent_log import SentLog
from serve_app.token_channel.event_log import PART_EVENTS

KEY, OTHER = ("router", 1, 1), ("router", 2, 1)


def events(count: int) -> list[Accepted]:
    return [Accepted(1, [number]) for number in range(count)]


def ended(log: SentLog, key, count: int, now: float) -> None:
    log.open(key).extend(events(count))
    log.end(key, now)


def test_running_generation_is_read_from_any_number_on():
    log = SentLog(keep_s=10, keep_bytes=100_000)
    log.open(KEY).extend(events(3))

    assert log.read(KEY, 1) == events(3)[1:]
    assert log.read(KEY, 3) == []


def test_unknown_generation_is_told_from_one_without_news():
    assert SentLog(keep_s=10, keep_bytes=100_000).read(KEY, 0) is None


def test_ended_generation_is_kept_for_its_time():
    log = SentLog(keep_s=10, keep_bytes=100_000)
    ended(log, KEY, 3, now=0.0)

    log.expire(9.9)
    assert log.read(KEY, 0) == events(3)
    log.expire(10.0)
    assert log.read(KEY, 0) is None


def test_oldest_ended_generations_go_when_they_take_too_much_memory():
    log = SentLog(keep_s=1000, keep_bytes=1000)
    ended(log, KEY, 6, now=0.0)
    ended(log, OTHER, 6, now=1.0)

    assert log.read(KEY, 0) is None
    assert log.read(OTHER, 0) == events(6)
    assert log.ended_bytes <= 1000


def test_many_tiny_generations_count_too():
    log = SentLog(keep_s=1000, keep_bytes=50_000)
    for number in range(200):
        ended(log, ("router", number, 1), 0, now=0.0)

    assert log.read(("router", 0, 1), 0) is None
    assert log.read(("router", 199, 1), 0) == []


def test_running_generation_is_kept_whatever_its_size():
    log = SentLog(keep_s=1, keep_bytes=1)
    log.open(KEY).extend(events(50))
    log.expire(100.0)

    assert log.read(KEY, 0) == events(50)


def test_a_long_generation_is_read_from_any_number_on_while_it_runs_and_after():
    deltas = [TokenDelta(0, index, 1, "a", [index]) for index in range(3 * PART_EVENTS)]
    log = SentLog(keep_s=10, keep_bytes=1_000_000)
    running = log.open(KEY)
    for delta in deltas:
        running.append(delta)
    for from_seq in (0, 1, PART_EVENTS, 2 * PART_EVENTS + 7):
        assert log.read(KEY, from_seq) == deltas[from_seq:]
    log.end(KEY, now=0.0)
    for from_seq in (0, 1, PART_EVENTS, 2 * PART_EVENTS + 7):
        assert log.read(KEY, from_seq) == deltas[from_seq:]
    assert log.ended_bytes < 20 * len(deltas)
