"""The log of a retained stream's events beside an ordinary list of them."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.token_channel.event_log import PART_EVENTS, EventLog
from serve_app.token_channel.event_memory import LOG_BYTES, event_bytes
from serve_app.token_channel.packed_events import unpack


def stream_of(lengths: list[int], finished: bool) -> list[StreamEvent]:
    """Events that bring so many tokens each."""
    events: list[StreamEvent] = [Accepted(3, [1, 2, 3])]
    position = 0
    for length in lengths:
        events.append(TokenDelta(0, position, len(range(length)), f"<{position}>", list(range(length))))
        position += length
    return [*events, Finished(0, FinishReason.STOP, None, 0)] if finished else events


def read_all(log: EventLog, start: int) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    while start + len(events) < len(log):
        batch = log.read(start + len(events))
        assert 0 < len(batch) <= 2 * PART_EVENTS
        events += batch
    return events


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_holds_what_a_list_would(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from((0, 1, 5, PART_EVENTS - 1, PART_EVENTS, 2 * PART_EVENTS, 3 * PART_EVENTS + 7)))
    lengths = [1 + index % 3 for index in range(count)]
    events = stream_of(lengths, finished=data.draw(st.booleans()))
    log, given_up_to = EventLog(), 0
    while given_up_to < len(events):
        size = data.draw(st.sampled_from((1, 7, 300, 4 * PART_EVENTS)))
        log.extend(events[given_up_to : given_up_to + size])
        given_up_to += size
        if size == 300 and data.draw(st.booleans()):
            log.seal()
    if data.draw(st.booleans()):
        log.seal()

    assert (len(log), log.tokens, log.first) == (len(events), sum(lengths), Accepted(3))
    assert log.all() == unpack(log.parts()) == events
    for start in data.draw(st.lists(st.integers(0, len(events)), max_size=5)):
        assert read_all(log, start) == events[start:]
    ends = [0, *(sum(lengths[: number + 1]) for number in range(count))]
    for seen in data.draw(st.lists(st.integers(1, max(1, sum(lengths))), max_size=5)):
        assert log.after(seen) == (bisect_right(ends, seen) if count else 1)


def test_a_long_stream_takes_a_tenth_of_the_memory_while_it_runs() -> None:
    events = stream_of([1] * 20_000, finished=False)
    log = EventLog()
    for start in range(0, len(events), 3):
        log.extend(events[start : start + 3])
    assert log.bytes < sum(map(event_bytes, events)) / 6
    log.seal()
    assert log.bytes < sum(map(event_bytes, events)) / 9


@pytest.mark.parametrize("sealed", [False, True])
def test_an_empty_one_has_nothing(sealed: bool) -> None:
    log = EventLog()
    if sealed:
        log.seal()
    assert (len(log), log.tokens, log.first, log.bytes) == (0, 0, None, LOG_BYTES)
    assert not log.read(0) and not log.all() and log.parts() == ()
