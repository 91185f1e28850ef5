from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import EngineLost
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt
from serve_app.ingress.delivery.merged_prompts import MergedPrompts
from tests.support.fake_router import FakeClock, FakeStream, Hang, Script, fail, speak

STOP = FinishReason.STOP


def stream(script: Script) -> FakeStream:
    return FakeStream(GenerationRequest("r", "m", Prompt(text="")), script, FakeClock())


async def drain(merged: MergedPrompts) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    while (batch := await merged.next()) is not None:
        assert batch
        events += batch
    return events


async def test_every_event_comes_once_in_its_streams_order_with_its_choice_renumbered() -> None:
    events = await drain(MergedPrompts([stream(speak("a", "b")), stream(speak("c"))], n=2))
    ours = [event for event in events if not isinstance(event, Accepted)]
    assert [event for event in ours if event.choice == 0] == [  # type: ignore[union-attr]
        TokenDelta(0, 0, 1, "a", [100]),
        TokenDelta(0, 1, 1, "b", [101]),
        Finished(0, STOP),
    ]
    assert [event for event in ours if event.choice == 2] == [  # type: ignore[union-attr]
        TokenDelta(2, 0, 1, "c", [100]),
        Finished(2, STOP),
    ]
    assert len(events) == 7


async def test_a_timeout_loses_no_event_that_is_still_to_come() -> None:
    held = stream([Hang()])
    merged = MergedPrompts([held, stream(speak("a"))], n=1)
    seen: list[StreamEvent] = []
    while events := await merged.next(0.01):
        seen += events
    assert len(seen) == 3
    assert await merged.next(0.01) == ()
    assert len(held.timeouts_s) == 1
    await merged.aclose()


async def test_the_first_failure_is_raised_and_all_are_closed() -> None:
    streams = [stream([Hang()]), stream(fail(EngineLost("lost")))]
    merged = MergedPrompts(streams, n=1)
    with pytest.raises(EngineLost):
        await drain(merged)
    await merged.aclose()
    assert [s.closed for s in streams] == [True, True]
    assert len(asyncio.all_tasks()) == 1


async def test_the_longest_wait_in_the_queue_is_shown() -> None:
    streams = [stream([]), stream([])]
    merged = MergedPrompts(streams, n=1)
    assert merged.queue_position is None
    streams[1]._place = 4
    assert merged.queue_position == 4
    streams[0]._place = 7
    assert merged.queue_position == 7
