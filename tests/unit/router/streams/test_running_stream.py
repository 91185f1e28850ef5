from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from serve_app.core.errors import ClientTooSlow, ContextLengthExceeded, EngineLost, InternalError
from serve_app.core.events import Accepted, Failed, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Sampling
from serve_app.router.decisions.messages import AttemptFailed, EngineAccepted, Happened
from serve_app.router.event_intake import EventIntake
from serve_app.router.streams.coarse_clock import CoarseClock
from serve_app.router.streams.running_stream import RunningStream
from serve_app.router.token_estimate import TokenEstimate
from serve_app.telemetry.metrics import ServeMetrics


class Router:
    """What a router's shell keeps around one stream: the real intake of events over a core that only counts."""

    def __init__(self) -> None:
        self.clock = CoarseClock(0.0)
        self.streams: dict[int, RunningStream] = {}
        self.ended: list[RunningStream] = []
        self.told: list[Happened] = []
        self.gaps = 0
        self.tokens = 0
        self.intake = EventIntake(self.streams, self, {"m": TokenEstimate()}, self.clock, self.tell)  # type: ignore[arg-type]  # of the core, it uses `tokens_received` only

    def tokens_received(self, stream_id: int, count: int, now: float) -> bool:
        self.tokens += count
        return False

    def tell(self, happened: Happened) -> None:
        self.told.append(happened)
        if isinstance(happened, AttemptFailed):
            self.streams[happened.stream_id].end(happened.error)

    def stream_ended(self, stream: RunningStream) -> None:
        self.ended.append(stream)
        del self.streams[stream.stream_id]

    def deliver(self, attempt: int, *events: tuple[int, StreamEvent]) -> None:
        """One batch of numbered events."""
        self.gaps += len(self.intake.take([(1, attempt, seq, event) for seq, event in events]))


@pytest.fixture
def router() -> Router:
    return Router()


def make_stream(router: Router, n: int = 1, buffer_limit: int = 1_000_000) -> RunningStream:
    request = GenerationRequest("r", "m", Prompt(text="hi"), Sampling(n=n))
    metrics = ServeMetrics(CollectorRegistry(), ["m"]).offered("m", 0.0, n)
    stream = RunningStream(
        1, request, "m", metrics, buffer_limit, router.clock, router.stream_ended, lambda stream_id: 3
    )
    router.streams[1] = stream
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


async def test_events_come_in_order_and_the_stream_ends_with_the_last_choice(router):
    stream = make_stream(router)
    script: list[StreamEvent] = [Accepted(2, [1, 2]), delta(0), delta(1), STOP]
    for seq, event in enumerate(script):
        router.deliver(1, (seq, event))

    assert await read_all(stream) == [Accepted(2, [1, 2]), delta(0), delta(1), STOP]
    assert stream.completed
    assert router.told == [EngineAccepted(1, 1, 2)]
    assert (router.tokens, stream.cached_tokens) == (2, 2)
    assert router.ended == [stream]


async def test_reader_gets_all_pending_events_at_once(router):
    stream = make_stream(router)
    reader = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    router.deliver(1, (0, delta(0)))
    router.deliver(1, (1, delta(1)))

    assert await reader == [delta(0), delta(1)]


async def test_every_choice_must_finish(router):
    stream = make_stream(router, n=2)
    router.deliver(1, (0, STOP))
    assert not stream.ended
    router.deliver(1, (1, Finished(1, FinishReason.LENGTH)))
    assert stream.ended


async def test_repeated_and_older_events_are_void(router):
    stream = make_stream(router)
    router.deliver(1, (0, delta(0)))
    router.deliver(1, (0, delta(0)))
    stream.dispatched(2, "other")
    router.deliver(1, (1, delta(99)))
    router.deliver(2, (0, delta(0, "second")))

    assert await stream.next() == [delta(0), delta(0, "second")]


async def test_late_events_of_an_attempt_that_was_taken_back_are_void(router):
    stream = make_stream(router)
    router.deliver(1, (0, delta(0)))
    stream.withdrawn()
    router.deliver(1, (1, delta(1)), (3, delta(3)))
    stream.dispatched(2, "other")
    router.deliver(2, (0, delta(1, "second")))

    assert await stream.next() == [delta(0), delta(1, "second")]
    assert (router.tokens, router.gaps) == (2, 0)


async def test_gap_is_reported_once_and_early_events_wait_for_it(router):
    stream = make_stream(router)
    router.deliver(1, (0, delta(0)))
    router.deliver(1, (2, delta(2)))
    router.deliver(1, (3, STOP))
    assert router.gaps == 1
    assert await stream.next() == [delta(0)]

    router.deliver(1, (1, delta(1)))

    assert await read_all(stream) == [delta(1), delta(2), STOP]


async def test_second_gap_is_reported_again(router):
    make_stream(router)
    router.deliver(1, (1, delta(1)))
    router.deliver(1, (3, delta(3)))
    router.deliver(1, (0, delta(0)))
    assert router.gaps == 2


async def test_failed_event_is_raised_as_its_error_after_what_came_before(router):
    stream = make_stream(router)
    router.deliver(1, (0, delta(0)))
    router.deliver(1, (1, Failed("context_length_exceeded", "too long", "messages")))

    assert await stream.next() == [delta(0)]
    with pytest.raises(ContextLengthExceeded) as raised:
        await stream.next()
    assert raised.value.param == "messages"


async def test_waiting_reader_is_woken_by_an_error(router):
    stream = make_stream(router)
    reader = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    stream.end(EngineLost("gone"))

    with pytest.raises(EngineLost):
        await reader


async def test_unread_stream_is_cut_at_its_bound_and_frees_what_it_held(router):
    stream = make_stream(router, buffer_limit=10_000)
    for seq in range(1000):
        router.deliver(1, (seq, delta(seq, "some text")))

    assert router.ended == [stream]
    assert router.tokens < 60
    with pytest.raises(ClientTooSlow):
        await stream.next()


async def test_reading_frees_the_buffer(router):
    stream = make_stream(router, buffer_limit=10_000)
    for seq in range(1000):
        router.deliver(1, (seq, delta(seq, "some text")))
        await stream.next()

    assert not stream.ended


async def test_timeout_returns_empty_handed_and_the_stream_goes_on(router):
    stream = make_stream(router)
    reader = asyncio.create_task(stream.next(timeout_s=10.0))
    await asyncio.sleep(0)
    stream.wake_if_idle(9.9)
    await asyncio.sleep(0)
    assert not reader.done()

    stream.wake_if_idle(10.0)

    assert await reader == ()
    router.deliver(1, (0, delta(0)))
    assert await stream.next() == [delta(0)]


async def test_closing_ends_once_and_later_events_are_void(router):
    stream = make_stream(router)
    await stream.aclose()
    await stream.aclose()
    router.deliver(1, (0, delta(0)))

    assert router.ended == [stream]
    assert not stream.completed
    assert await stream.next() is None


async def test_queue_position_is_the_routers(router):
    assert make_stream(router).queue_position == 3


class RecordingSink:
    """Takes what it is given while `takes` is true."""

    def __init__(self) -> None:
        self.batches: list[list[StreamEvent]] = []
        self.takes = True

    def __call__(self, events: Sequence[StreamEvent]) -> bool:
        self.batches.append(list(events))
        return self.takes


async def test_a_waiting_sink_gets_the_events_of_each_batch_and_the_reader_sleeps_on(router):
    stream, sink = make_stream(router), RecordingSink()
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    router.deliver(1, (0, delta(0)), (1, delta(1)))
    router.deliver(1, (2, delta(2)))
    await asyncio.sleep(0)

    assert sink.batches == [[delta(0), delta(1)], [delta(2)]]
    assert not reader.done()
    reader.cancel()


async def test_a_sink_that_declines_gets_no_more_and_its_reader_goes_on_with_what_follows(router):
    stream, sink = make_stream(router), RecordingSink()
    sink.takes = False
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    router.deliver(1, (0, delta(0)))
    assert await reader == ()
    router.deliver(1, (1, delta(1)))

    assert sink.batches == [[delta(0)]]
    assert await stream.next(15.0, sink) == [delta(1)]


async def test_the_last_events_are_the_readers_own(router):
    stream, sink = make_stream(router), RecordingSink()
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    router.deliver(1, (0, delta(0)), (1, STOP))

    assert await reader == [delta(0), STOP]
    assert sink.batches == []


async def test_the_time_without_events_begins_anew_with_each_batch_for_a_sink(router):
    stream, sink = make_stream(router), RecordingSink()
    reader = asyncio.create_task(stream.next(15.0, sink))
    await asyncio.sleep(0)
    router.clock.now = 10.0
    router.deliver(1, (0, delta(0)))
    stream.wake_if_idle(20.0)
    await asyncio.sleep(0)
    assert not reader.done()
    stream.wake_if_idle(25.0)
    assert await reader == ()


async def test_a_sink_that_raises_fails_its_own_stream_only(router):
    def broken(events: Sequence[StreamEvent]) -> bool:
        raise ValueError("cannot write")

    stream = make_stream(router)
    reader = asyncio.create_task(stream.next(15.0, broken))
    await asyncio.sleep(0)
    router.deliver(1, (0, delta(0)))
    with pytest.raises(InternalError):
        await reader
    assert router.ended == [stream]
