"""Events that the token channel lost are read again from the engine's log."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.request import Continuation
from serve_app.router import gap_reader
from tests.support.settling import settle
from tests.unit.router.lifecycle_bench import ANSWER, Bench, read_all


async def test_lost_events_are_read_again_from_the_log(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    wire = call.wire(0, *ANSWER)
    bench.caller.log[call.reply_to.key] = wire
    bench.router.on_events("e1", [wire[0], wire[3]])

    assert await read_all(stream) == ANSWER
    assert bench.caller.log_reads == [{(1, 1): 1}]
    assert bench.router.gaps == 1


async def test_lost_end_is_noticed_when_the_call_returns(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    wire = call.wire(0, *ANSWER)
    bench.caller.log[call.reply_to.key] = wire
    bench.router.on_events("e1", wire[:2])
    call.result.set_result(len(wire))

    assert await read_all(stream) == ANSWER


async def test_loss_told_by_the_channel_reads_the_log_and_ends_nothing_when_nothing_is_missing(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    wire = call.wire(0, *ANSWER)
    bench.caller.log[call.reply_to.key] = wire[:2]
    bench.router.on_events("e1", wire[:2])
    bench.router.on_loss("e1")
    await settle()
    assert bench.caller.log_reads == [{(1, 1): 2}]
    bench.router.on_events("e1", wire[2:])

    assert await read_all(stream) == ANSWER


async def test_one_loss_is_one_call_however_many_streams_it_concerns(bench: Bench) -> None:
    bench.engine(capacity=8)
    streams = [bench.open() for _ in range(4)]
    calls = [await bench.call(number) for number in range(4)]
    for call in calls:
        wire = call.wire(0, *ANSWER)
        bench.caller.log[call.reply_to.key] = wire
        bench.router.on_events("e1", wire[:1])
    bench.router.on_loss("e1")

    assert [await read_all(stream) for stream in streams] == [ANSWER] * 4
    assert bench.caller.log_reads == [{(stream, 1): 1 for stream in (1, 2, 3, 4)}]
    assert bench.router.gaps == 4


async def test_one_message_that_shows_gaps_of_many_streams_is_one_call(bench: Bench) -> None:
    bench.engine(capacity=8)
    streams = [bench.open() for _ in range(4)]
    wires = [(await bench.call(number)).wire(0, *ANSWER) for number in range(4)]
    bench.caller.log.update({("router", stream, 1): wire for stream, wire in enumerate(wires, 1)})
    bench.router.on_events("e1", [event for wire in wires for event in (wire[0], wire[3])])

    assert [await read_all(stream) for stream in streams] == [ANSWER] * 4
    assert len(bench.caller.log_reads) == 1


async def test_an_engine_that_does_not_answer_a_read_of_its_log_has_lost_the_events(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_reader, "READ_TIMEOUT_S", 0.001)
    bench.caller.log_answers.clear()
    bench.engine()
    bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER[:2]))
    bench.router.on_loss("e1")
    bench.engine("e2")
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call.result, 5.0)

    assert call.cancelled
    await settle()
    assert bench.caller.calls[1].request.continuation is not None


async def test_stream_whose_events_cannot_be_read_again_goes_on_from_where_it_is_whole(bench):
    bench.engine()
    bench.open()
    call = await bench.call()
    wire = call.wire(0, *ANSWER)
    bench.router.on_events("e1", [*wire[:2], wire[3]])
    second = await bench.call(1)

    assert second.request.continuation == Continuation((1, 2, 3), (5,), "Hel")
