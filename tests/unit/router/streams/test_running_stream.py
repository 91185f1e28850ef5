from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from serve_app.core.errors import ClientTooSlow, ContextLengthExceeded, EngineLost, InternalError, ServeAppError
from serve_app.core.events import Accepted, Failed, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Sampling
from serve_app.router.streams.running_stream import RunningStream
from serve_app.router.streams.second_attempt import SecondAttempt
from serve_app.telemetry.metrics import ServeMetrics


class Owner:
    """Records what a stream tells its router."""

    def __init__(self) -> None:
        self.coarse_now = 0.0
        self.ended: list[RunningStream] = []
        self.gaps = 0
        self.tokens = 0
        self.accepted = 0
        self.with_events: list[RunningStream] = []

    def stream_ended(self, stream: RunningStream) -> None:
        self.ended.append(stream)

    def stream_position(self, stream: RunningStream) -> int | None:
        return 3

    def stream_accepted(self, stream: RunningStream) -> None:
        self.accepted = stream.prompt_tokens

    def stream_progressed(self, stream: RunningStream, tokens: int) -> None:
        self.tokens += tokens

    def stream_failed(self, stream: RunningStream, error: ServeAppError) -> None:
        stream.end(error)

    def second_accepted(self, stream: RunningStream, second: SecondAttempt) -> None:
        raise AssertionError("these streams have one attempt")

    def second_failed(self, stream: RunningStream, second: SecondAttempt, error: ServeAppError) -> None:
        raise AssertionError("these streams have one attempt")

    def second_won(self, stream: RunningStream, second: SecondAttempt) -> None:
        raise AssertionError("these streams have one attempt")

    def stream_has_gap(self, stream: RunningStream) -> None:
        self.gaps += 1

    def stream_has_events(self, stream: RunningStream) -> None:
        self.with_events.append(stream)


@pytest.fixture
def owner() -> Owner:
    return Owner()


def make_stream(owner: Owner, n: int = 1, buffer_limit: int = 1_000_000) -> RunningStream:
    request = GenerationRequest("r", "m", Prompt(text="hi"), Sampling(n=n))
    metrics = ServeMetrics(CollectorRegistry(), ["m"]).offered("m", 0.0, n)
    stream = RunningStream(1, request, owner, metrics, buffer_limit)
    stream.dispatched(1, "engine")
    return stream


def delta(index: int, text: str = "x", choice: int = 0) -> TokenDelta:
    return TokenDelta(choice, index, 1, text, [index])


STOP = Finished(0, FinishReason.STOP, cached_tokens=2)


async def read_all(stream: RunningStream) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    while (batch := await stream.next()) is not None:
        events.extend(batch)
    return events


async def test_events_come_in_order_and_the_stream_ends_with_the_last_choice(owner):
    stream = make_stream(owner)
    script: list[StreamEvent] = [Accepted(2, [1, 2]), delta(0), delta(1), STOP]
    for seq, event in enumerate(script):
        stream.deliver(1, seq, event)

    assert await read_all(stream) == [Accepted(2, [1, 2]), delta(0), delta(1), STOP]
    assert stream.completed
    assert (owner.accepted, owner.tokens, stream.cached_tokens) == (2, 2, 2)
    assert owner.ended == [stream]


async def test_reader_gets_all_pending_events_at_once(owner):
    stream = make_stream(owner)
    reader = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    stream.deliver(1, 0, delta(0))
    stream.deliver(1, 1, delta(1))

    assert await reader == [delta(0), delta(1)]


async def test_every_choice_must_finish(owner):
    stream = make_stream(owner, n=2)
    stream.deliver(1, 0, STOP)
    assert not stream.ended
    stream.deliver(1, 1, Finished(1, FinishReason.LENGTH))
    assert stream.ended


async def test_repeated_and_older_events_are_void(owner):
    stream = make_stream(owner)
    stream.deliver(1, 0, delta(0))
    stream.deliver(1, 0, delta(0))
    stream.dispatched(2, "other")
    stream.deliver(1, 1, delta(99))
    stream.deliver(2, 0, delta(0, "second"))

    assert await stream.next() == [delta(0), delta(0, "second")]


async def test_gap_is_reported_once_and_early_events_wait_for_it(owner):
    stream = make_stream(owner)
    stream.deliver(1, 0, delta(0))
    stream.deliver(1, 2, delta(2))
    stream.deliver(1, 3, STOP)
    assert owner.gaps == 1
    assert await stream.next() == [delta(0)]

    stream.deliver(1, 1, delta(1))

    assert await read_all(stream) == [delta(1), delta(2), STOP]


async def test_second_gap_is_reported_again(owner):
    stream = make_stream(owner)
    stream.deliver(1, 1, delta(1))
    stream.deliver(1, 3, delta(3))
    stream.deliver(1, 0, delta(0))
    assert owner.gaps == 2


async def test_failed_event_is_raised_as_its_error_after_what_came_before(owner):
    stream = make_stream(owner)
    stream.deliver(1, 0, delta(0))
    stream.deliver(1, 1, Failed("context_length_exceeded", "too long", "messages"))

    assert await stream.next() == [delta(0)]
    with pytest.raises(ContextLengthExceeded) as raised:
        await stream.next()
    assert raised.value.param == "messages"


async def test_waiting_reader_is_woken_by_an_error(owner):
    stream = make_stream(owner)
    reader = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    stream.end(EngineLost("gone"))

    with pytest.raises(EngineLost):
        await reader


async def test_unread_stream_is_cut_at_its_bound_and_frees_what_it_held(owner):
    stream = make_stream(owner, buffer_limit=10_000)
    for seq in range(1000):
        stream.deliver(1, seq, delta(seq, "some text"))

    assert owner.ended == [stream]
    assert stream.output_tokens < 60
    with pytest.raises(ClientTooSlow):
        await stream.next()


async def test_reading_frees_the_buffer(owner):
    stream = make_stream(owner, buffer_limit=10_000)
    for seq in range(1000):
        stream.deliver(1, seq, delta(seq, "some text"))
        await stream.next()

    assert not stream.ended


async def test_timeout_returns_empty_handed_and_the_stream_goes_on(owner):
    stream = make_stream(owner)
    reader = asyncio.create_task(stream.next(timeout_s=10.0))
    await asyncio.sleep(0)
    stream.wake_if_idle(9.9)
    await asyncio.sleep(0)
    assert not reader.done()

    stream.wake_if_idle(10.0)

    assert await reader == ()
    stream.deliver(1, 0, delta(0))
    assert await stream.next() == [delta(0)]


async def test_closing_ends_once_and_later_events_are_void(owner):
    stream = make_stream(owner)
    await stream.aclose()
    await stream.aclose()
    stream.deliver(1, 0, delta(0))

    assert owner.ended == [stream]
    assert not stream.completed
    assert await stream.next() is None


async def test_queue_position_is_the_routers(owner):
    assert make_stream(owner).queue_position == 3


class RecordingSink:
    """Takes what it is given while `takes` is true."""

    def __init__(self) -> None:
        self.batches: list[list[StreamEvent]] = []
        self.takes = True

    def __call__(self, events: Sequence[StreamEvent]) -> bool:
        self.batches.append(list(events))
        return self.takes


async def test_a_waiting_sink_gets_the_events_of_each_batch_and_the_reader_sleeps_on(owner):
    stream, sink = make_stream(owner), RecordingSink()
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    stream.deliver(1, 0, delta(0))
    stream.deliver(1, 1, delta(1))
    assert (owner.with_events, sink.batches) == ([stream], [])
    stream.flush()
    stream.deliver(1, 2, delta(2))
    stream.flush()
    await asyncio.sleep(0)

    assert sink.batches == [[delta(0), delta(1)], [delta(2)]]
    assert not reader.done()
    reader.cancel()


async def test_a_sink_that_declines_gets_no_more_and_its_reader_goes_on_with_what_follows(owner):
    stream, sink = make_stream(owner), RecordingSink()
    sink.takes = False
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    stream.deliver(1, 0, delta(0))
    stream.flush()
    assert await reader == ()
    stream.deliver(1, 1, delta(1))

    assert sink.batches == [[delta(0)]]
    assert await stream.next(15.0, sink) == [delta(1)]


async def test_the_last_events_are_the_readers_own(owner):
    stream, sink = make_stream(owner), RecordingSink()
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    stream.deliver(1, 0, delta(0))
    stream.deliver(1, 1, STOP)
    stream.flush()

    assert await reader == [delta(0), STOP]
    assert sink.batches == []


async def test_the_time_without_events_begins_anew_with_each_batch_for_a_sink(owner):
    stream, sink = make_stream(owner), RecordingSink()
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    owner.coarse_now = 10.0
    stream.deliver(1, 0, delta(0))
    stream.flush()
    stream.wake_if_idle(20.0)
    await asyncio.sleep(0)
    assert not reader.done()
    stream.wake_if_idle(25.0)
    assert await reader == ()


async def test_a_sink_that_raises_fails_its_own_stream_only(owner):
    def broken(events: Sequence[StreamEvent]) -> bool:
        raise ValueError("cannot write")

    stream = make_stream(owner)
    reader = asyncio.create_task(stream.next(15.0, broken))
    await asyncio.sleep(0)
    stream.deliver(1, 0, delta(0))
    stream.flush()
    with pytest.raises(InternalError):
        await reader
    assert owner.ended == [stream]
