"""Both sides together, on loopback: delivery, batching, restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle

import pytest
import uvloop

from serve_app.core.events import Finished, FinishReason
from serve_app.token_channel.codec import PROTOCOL_VERSION, UnsupportedVersion
from serve_app.token_channel.receiver import ChannelReceiver
from serve_app.token_channel.sender import ChannelSender
from tests.unit.token_channel.conftest import Side
from tests.unit.token_channel.recorder import HOST, QUIET, ManualClock, Recorder, delta, status, until


async def test_events_arrive_complete_and_in_order(side: Side) -> None:
    recorder, engine = Recorder(), side.engine()
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    sent = []
    for seq in range(500):
        for stream in (1, 2):
            engine.send("router-1", stream, 1, seq, delta(seq, f"é{seq}"))
            sent.append((stream, 1, seq, delta(seq, f"é{seq}")))
        if seq % 7 == 0:
            await asyncio.sleep(0)
    await recorder.until(lambda: len(recorder.events) == 1000)

    assert recorder.events == sent
    assert {engine_id for engine_id, _ in recorder.batches} == {"engine-1"}
    assert recorder.lost == []


async def test_events_of_one_loop_turn_travel_as_one_message_per_router(side: Side) -> None:
    one, two, engine = Recorder(), Recorder(), side.engine()
    for recorder, router_id in ((one, "router-1"), (two, "router-2")):
        _, endpoint = await side.router(recorder, router_id)
        engine.attach(endpoint)
    await one.until(lambda: bool(one.statuses))
    await two.until(lambda: bool(two.statuses))
    before = engine.stats.messages

    for stream in range(64):
        engine.send("router-1", stream, 1, 0, delta(0))
        engine.send("router-2", 100 + stream, 1, 0, delta(0))
    await one.until(lambda: bool(one.batches))
    await two.until(lambda: bool(two.batches))

    assert engine.stats.messages - before == 2
    assert [[event[0] for event in events] for _, events in one.batches] == [list(range(64))]
    assert [[event[0] for event in events] for _, events in two.batches] == [list(range(100, 164))]


async def test_sends_of_tasks_woken_together_travel_as_one_message(side: Side) -> None:
    recorder, engine = Recorder(), side.engine()
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)
    step = asyncio.Event()

    async def generate(stream: int) -> None:
        await step.wait()
        engine.send("router-1", stream, 1, 0, delta(0))

    async with asyncio.TaskGroup() as tasks:
        for stream in range(64):
            tasks.create_task(generate(stream))
        await asyncio.sleep(0)
        step.set()
    await recorder.until(lambda: len(recorder.events) == 64)

    assert len(recorder.batches) == 1


async def test_more_events_than_a_batch_may_hold_travel_in_several_messages(side: Side) -> None:
    config = QUIET.model_copy(update={"max_batch_events": 10})
    recorder, engine = Recorder(), side.engine(config=config)
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    for seq in range(25):
        engine.send("router-1", 1, 1, seq, delta(seq))
    await recorder.until(lambda: len(recorder.events) == 25)

    assert [len(events) for _, events in recorder.batches] == [10, 10, 5]
    assert [event[2] for event in recorder.events] == list(range(25))


async def test_a_batch_larger_than_a_message_may_be_is_split(side: Side) -> None:
    config = QUIET.model_copy(update={"max_message_bytes": 4096})
    recorder, engine = Recorder(), side.engine(config=config)
    _, endpoint = await side.router(recorder, config=config)
    engine.attach(endpoint)

    for seq in range(20):
        engine.send("router-1", 1, 1, seq, delta(seq, "y" * 1000))
    await recorder.until(lambda: len(recorder.events) == 20)

    assert [event[2] for event in recorder.events] == list(range(20))
    assert len(recorder.batches) > 1


async def test_attaching_again_changes_nothing(side: Side) -> None:
    recorder, engine = Recorder(), side.engine()
    _, endpoint = await side.router(recorder)

    for _ in range(3):
        engine.attach(pickle.loads(pickle.dumps(endpoint)))
    engine.send("router-1", 1, 1, 0, delta(0))
    await recorder.until(lambda: bool(recorder.events))

    assert engine.router_ids == {"router-1"}
    assert engine.stats.messages == 2


async def test_status_comes_at_attaching_and_after_the_events_of_its_message(side: Side) -> None:
    clock, recorder, generations = ManualClock(), Recorder(), [1]
    engine = side.engine(clock=clock, report=lambda: status(generations=generations[0]))
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)
    await recorder.until(lambda: recorder.statuses == [status(generations=1)])
    clock.now += QUIET.status_interval_s
    generations[0] = 0
    engine.send("router-1", 1, 1, 0, Finished(0, FinishReason.STOP))
    await recorder.until(lambda: len(recorder.statuses) == 2)

    assert recorder.order == ["status", "events", "status"]
    assert recorder.statuses[-1].generations == 0


async def test_status_is_not_repeated_with_every_batch(side: Side) -> None:
    recorder, engine = Recorder(), side.engine(clock=ManualClock())
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    for seq in range(20):
        engine.send("router-1", 1, 1, seq, delta(seq))
        await asyncio.sleep(0)
    await recorder.until(lambda: len(recorder.events) == 20)

    assert len(recorder.batches) > 1
    assert len(recorder.statuses) == 1


async def test_events_for_an_unknown_router_are_dropped_and_counted(side: Side) -> None:
    engine = side.engine()

    engine.send("nobody", 1, 1, 0, delta(0))

    assert engine.stats.dropped_events == 1


async def test_a_restarted_router_is_reached_at_its_new_endpoint(side: Side) -> None:
    old, new, engine = Recorder(), Recorder(), side.engine()
    receiver, endpoint = await side.router(old)
    engine.attach(endpoint)
    engine.send("router-1", 1, 1, 0, delta(0))
    await old.until(lambda: bool(old.events))

    await receiver.close()
    engine.send("router-1", 1, 1, 1, delta(1))
    await asyncio.sleep(0)
    _, endpoint = await side.router(new)
    engine.attach(endpoint)
    engine.send("router-1", 2, 1, 0, delta(0))
    await new.until(lambda: bool(new.events))

    assert new.events == [(2, 1, 0, delta(0))]
    assert new.lost == []
    assert engine.router_ids == {"router-1"}


async def test_a_restarted_engine_is_another_engine(side: Side) -> None:
    recorder = Recorder()
    _, endpoint = await side.router(recorder)
    first = side.engine("engine-1")
    first.attach(endpoint)
    await recorder.until(lambda: recorder.engines == {"engine-1"})

    await first.close()
    second = side.engine("engine-2")
    second.attach(endpoint)
    second.send("router-1", 1, 1, 0, delta(0))
    await recorder.until(lambda: bool(recorder.events))

    assert recorder.batches == [("engine-2", [(1, 1, 0, delta(0))])]
    assert recorder.lost == []


async def test_an_engine_that_closes_still_delivers_its_last_events(side: Side) -> None:
    recorder, engine = Recorder(), side.engine()
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    engine.send("router-1", 1, 1, 0, Finished(0, FinishReason.LENGTH))
    await engine.close()
    await recorder.until(lambda: bool(recorder.events))

    assert recorder.events == [(1, 1, 0, Finished(0, FinishReason.LENGTH))]
    engine.send("router-1", 1, 1, 1, delta(1))
    engine.attach(endpoint)
    assert engine.router_ids == frozenset()


async def test_an_endpoint_of_another_protocol_version_is_refused(side: Side) -> None:
    engine = side.engine()
    _, endpoint = await side.router(Recorder())

    with pytest.raises(UnsupportedVersion, match=str(PROTOCOL_VERSION + 1)):
        engine.attach(dataclasses.replace(endpoint, version=PROTOCOL_VERSION + 1))

    assert engine.router_ids == frozenset()


async def test_the_endpoint_does_not_print_its_secret(side: Side) -> None:
    _, endpoint = await side.router(Recorder())

    assert endpoint.client_secret_key.decode() not in repr(endpoint)


async def test_ports_come_from_the_configured_range(side: Side) -> None:
    free, _ = await side.router(Recorder(), "probe")
    _, probe = await side.router(Recorder(), "probe-2")
    port = int(probe.address.rpartition(":")[2])
    config = QUIET.model_copy(update={"port_range": (port, min(port + 20, 65535))})

    _, endpoint = await side.router(Recorder(), config=config)

    assert port < int(endpoint.address.rpartition(":")[2]) <= port + 20
    await free.close()


async def test_a_listener_that_raises_does_not_stop_the_channel(side: Side) -> None:
    recorder, engine = Recorder(), side.engine()
    _, endpoint = await side.router(recorder)
    keep = recorder.on_events

    def fail_once(engine_id: str, events: object) -> None:
        recorder.on_events = keep  # type: ignore[method-assign]
        raise RuntimeError("planted")

    recorder.on_events = fail_once  # type: ignore[method-assign]
    engine.attach(endpoint)
    engine.send("router-1", 1, 1, 0, delta(0))
    await until(lambda: recorder.on_events == keep)
    engine.send("router-1", 1, 1, 1, delta(1))
    await recorder.until(lambda: bool(recorder.events))

    assert recorder.events == [(1, 1, 1, delta(1))]


def test_the_channel_works_on_uvloop() -> None:
    async def scenario() -> int:
        recorder = Recorder()
        receiver = ChannelReceiver("router-1", recorder, QUIET, HOST)
        engine = ChannelSender("engine-1", status, lambda router_id: None, QUIET)
        engine.attach(await receiver.start())
        try:
            for seq in range(200):
                engine.send("router-1", 1, 1, seq, delta(seq))
                await asyncio.sleep(0)
            await recorder.until(lambda: len(recorder.events) == 200)
            return len(recorder.events)
        finally:
            await engine.close()
            await receiver.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == 200
