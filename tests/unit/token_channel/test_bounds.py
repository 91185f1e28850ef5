"""A router that is slow or gone costs the engine neither time nor memory, and losses are told."""

from __future__ import annotations

import asyncio

from serve_app.token_channel.codec import Batch, decode_batch, encode_ack, encode_batch
from tests.unit.token_channel.conftest import Side
from tests.unit.token_channel.raw_peer import raw_engine, raw_router
from tests.unit.token_channel.recorder import QUIET, ManualClock, Recorder, delta, until

KIB = 1024


async def test_an_unreachable_router_takes_no_more_memory_than_configured(side: Side) -> None:
    config = QUIET.model_copy(update={"max_unacknowledged_bytes": 256 * KIB})
    receiver, endpoint = await side.router(Recorder())
    await receiver.close()
    engine = side.engine(config=config)
    engine.attach(endpoint)

    for seq in range(1000):
        engine.send("router-1", 1, 1, seq, delta(seq, "z" * 10 * KIB))
        if seq % 5 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert engine.stats.bytes <= 256 * KIB + KIB
    assert engine.stats.events + engine.stats.dropped_events == 1000


async def test_a_router_that_does_not_read_takes_no_more_memory_than_configured(side: Side) -> None:
    config = QUIET.model_copy(update={"max_unacknowledged_bytes": 256 * KIB})
    with raw_router("router-1") as (socket, endpoint):
        engine = side.engine(config=config)
        engine.attach(endpoint)
        await until(lambda: bool(socket.poll(0)))

        for seq in range(1000):
            engine.send("router-1", 1, 1, seq, delta(seq, "z" * 10 * KIB))
            await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert engine.stats.bytes <= 256 * KIB + KIB
        assert engine.stats.dropped_events > 900


async def test_messages_beyond_the_high_water_mark_are_dropped_and_counted(side: Side) -> None:
    receiver, endpoint = await side.router(Recorder())
    await receiver.close()
    engine = side.engine(config=QUIET.model_copy(update={"high_water_mark": 10}))
    engine.attach(endpoint)

    for seq in range(100):
        engine.send("router-1", 1, 1, seq, delta(seq))
        await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert engine.stats.messages == 10
    assert engine.stats.dropped_events == 100 - engine.stats.events


async def test_one_routers_trouble_does_not_touch_another(side: Side) -> None:
    config = QUIET.model_copy(update={"high_water_mark": 5})
    gone, endpoint = await side.router(Recorder(), "gone")
    await gone.close()
    recorder, engine = Recorder(), side.engine(config=config)
    _, good = await side.router(recorder, "good")
    engine.attach(endpoint)
    engine.attach(good)

    for seq in range(100):
        engine.send("gone", 1, 1, seq, delta(seq))
        engine.send("good", 2, 1, seq, delta(seq))
        if seq % 4 == 3:
            await recorder.until(lambda seq=seq: len(recorder.events) == seq + 1)  # type: ignore[misc]

    assert [event[2] for event in recorder.events] == list(range(100))
    assert recorder.lost == []


async def test_acknowledgements_make_room_again(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    engine = side.engine(config=QUIET.model_copy(update={"max_unacknowledged_bytes": 8 * KIB}), clock=clock)
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    for seq in range(50):
        engine.send("router-1", 1, 1, seq, delta(seq, "z" * KIB))
        clock.now += QUIET.status_interval_s
        await until(lambda seq=seq: engine.stats.acknowledgements >= seq + 1)  # type: ignore[misc]
    await recorder.until(lambda: len(recorder.events) == 50)

    assert engine.stats.dropped_events == 0


async def test_one_event_too_large_for_a_message_is_dropped_alone(side: Side) -> None:
    config = QUIET.model_copy(update={"max_message_bytes": 4096})
    recorder, engine = Recorder(), side.engine(config=config)
    _, endpoint = await side.router(recorder, config=config)
    engine.attach(endpoint)

    for seq, text in enumerate(["a", "b" * 5000, "c"]):
        engine.send("router-1", 1, 1, seq, delta(seq, text))
    await recorder.until(lambda: len(recorder.events) == 2)

    assert [event[2] for event in recorder.events] == [0, 2]
    assert engine.stats.dropped_events == 1
    assert recorder.lost == ["engine-1"]


async def test_losing_the_last_events_of_a_stream_is_told_with_the_next_report(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    config = QUIET.model_copy(update={"max_unacknowledged_bytes": KIB})
    engine = side.engine(config=config, clock=clock)
    receiver, endpoint = await side.router(recorder)
    engine.attach(endpoint)
    await recorder.until(lambda: bool(recorder.statuses))
    engine.send("router-1", 1, 1, 0, delta(0, "z" * 2 * KIB))
    await until(lambda: engine.stats.dropped_events == 1)
    assert recorder.lost == []

    clock.now += config.heartbeat_interval_s
    engine.tick(clock.now)
    await recorder.until(lambda: bool(recorder.lost))

    assert recorder.lost == ["engine-1"]
    assert recorder.events == []
    assert receiver.stats.losses == 1


async def test_a_missing_message_is_told_after_the_events_that_follow_it(side: Side) -> None:
    recorder = Recorder()
    _, endpoint = await side.router(recorder)

    with raw_engine(endpoint) as socket:
        for number in (0, 1, 3, 4):
            socket.send(encode_batch(Batch(number, [(1, 1, number, delta(number))])))
        await recorder.until(lambda: len(recorder.events) == 4)

    assert recorder.lost == ["raw"]


async def test_a_report_that_finds_no_room_with_its_events_is_sent_without_them(side: Side) -> None:
    clock = ManualClock()
    with raw_router("router-1") as (socket, endpoint):
        engine = side.engine(config=QUIET.model_copy(update={"max_unacknowledged_bytes": KIB}), clock=clock)
        engine.attach(endpoint)
        clock.now += QUIET.status_interval_s
        engine.send("router-1", 1, 1, 0, delta(0, "z" * 2 * KIB))
        await until(lambda: engine.stats.messages == 2)
        batches = []
        for _ in range(2):
            await until(lambda: bool(socket.poll(0)))
            identity, data = socket.recv_multipart()
            batches.append(decode_batch(data))

        assert [batch.events for batch in batches] == [[], []]
        assert batches[1].status is not None
        assert batches[1].beat is not None
        assert batches[1].number > batches[0].number + 1
        socket.send_multipart([identity, encode_ack(batches[1].beat)])
        await until(lambda: engine.stats.acknowledgements == 1)
