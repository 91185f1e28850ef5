"""Each side notices that the other is gone, and that it is back."""

from __future__ import annotations

import pytest

from serve_app.core.engine_status import EngineStatus
from serve_app.token_channel.codec import decode_batch, encode_ack
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.receiver import ChannelReceiver
from serve_app.token_channel.sender import ChannelSender
from serve_app.token_channel.sockets import Socket
from tests.unit.token_channel.conftest import Side
from tests.unit.token_channel.raw_peer import raw_router
from tests.unit.token_channel.recorder import HOST, PATIENCE_S, QUIET, ManualClock, Recorder, delta, status, until

STEP_S = 10.0
"""Between two looks; the timeout is 60 s."""


def let_pass(clock: ManualClock, seconds: float, *sides: ChannelReceiver | ChannelSender) -> None:
    """Let time pass in steps in which both sides look, as their timers would."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += STEP_S
        for side in sides:
            side.check_silence(clock.now) if isinstance(side, ChannelReceiver) else side.tick(clock.now)


async def answer(socket: Socket) -> None:
    """Acknowledge the next report that arrives at a raw router."""
    while True:
        await until(lambda: bool(socket.poll(0)))
        identity, data = socket.recv_multipart()
        beat = decode_batch(data).beat
        if beat is not None:
            socket.send_multipart([identity, encode_ack(beat)])
            return


async def test_a_silent_engine_is_reported_once(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    receiver, endpoint = await side.router(recorder, clock=clock)
    side.engine(clock=clock).attach(endpoint)
    await recorder.until(lambda: bool(recorder.statuses))

    let_pass(clock, 50, receiver)
    assert recorder.silent == []
    let_pass(clock, 500, receiver)

    assert recorder.silent == ["engine-1"]


async def test_an_engine_that_speaks_again_is_heard_and_watched_again(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    receiver, endpoint = await side.router(recorder, clock=clock)
    engine = side.engine(clock=clock)
    engine.attach(endpoint)
    await recorder.until(lambda: bool(recorder.statuses))
    let_pass(clock, 60, receiver)

    engine.send("router-1", 1, 1, 0, delta(0))
    await recorder.until(lambda: bool(recorder.events))
    assert recorder.silent == ["engine-1"]
    assert recorder.lost == ["engine-1"]
    let_pass(clock, 60, receiver)

    assert recorder.silent == ["engine-1", "engine-1"]


async def test_an_engine_that_reports_is_not_silent(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    receiver, endpoint = await side.router(recorder, clock=clock)
    engine = side.engine(clock=clock)
    engine.attach(endpoint)

    for reports in range(1, 6):
        await recorder.until(lambda reports=reports: len(recorder.statuses) >= reports)  # type: ignore[misc]
        let_pass(clock, 30, receiver)
        engine.tick(clock.now)

    assert recorder.silent == []
    assert side.silent_routers == []


async def test_messages_that_wait_unread_count_as_heard(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    receiver, endpoint = await side.router(recorder, clock=clock)
    engine = side.engine(clock=clock)
    engine.attach(endpoint)
    await recorder.until(lambda: bool(recorder.statuses))
    let_pass(clock, 50, receiver)

    engine.tick(clock.now)
    assert receiver._socket.poll(int(PATIENCE_S) * 1000)  # the event loop does not run meanwhile
    let_pass(clock, 10, receiver)

    assert recorder.silent == []
    assert len(recorder.statuses) == 2


async def test_a_listener_that_raises_still_hears_of_the_other_silent_engines(side: Side) -> None:
    clock, recorder = ManualClock(), Recorder()
    receiver, endpoint = await side.router(recorder, clock=clock)
    for engine_id in ("engine-1", "engine-2"):
        side.engine(engine_id, clock=clock).attach(endpoint)
    await recorder.until(lambda: len(recorder.statuses) == 2)
    heard = []

    def on_silent(engine_id: str) -> None:
        heard.append(engine_id)
        raise RuntimeError("planted")

    recorder.on_silent = on_silent  # type: ignore[method-assign]
    let_pass(clock, 60, receiver)

    assert sorted(heard) == ["engine-1", "engine-2"]


async def test_a_router_that_never_answers_is_reported_once(side: Side) -> None:
    clock = ManualClock()
    receiver, endpoint = await side.router(Recorder())
    await receiver.close()
    engine = side.engine(clock=clock)
    engine.attach(endpoint)
    assert engine.router_ids == {"router-1"}

    let_pass(clock, 50, engine)
    assert side.silent_routers == []
    let_pass(clock, 40, engine)

    assert side.silent_routers == ["router-1"]
    assert engine.router_ids == frozenset()


async def test_a_router_that_answers_again_is_live_again(side: Side) -> None:
    clock = ManualClock()
    config = QUIET.model_copy(update={"forget_router_after_s": 10_000})
    with raw_router("router-1") as (socket, endpoint):
        engine = side.engine(config=config, clock=clock)
        engine.attach(endpoint)
        await answer(socket)
        await until(lambda: engine.stats.acknowledgements == 1)
        let_pass(clock, 60, engine)
        assert side.silent_routers == ["router-1"]
        engine.send("router-1", 1, 1, 0, delta(0))
        await until(lambda: engine.stats.dropped_events == 1)

        await answer(socket)
        await until(lambda: engine.router_ids == {"router-1"})
        engine.send("router-1", 1, 1, 1, delta(1))
        await until(lambda: engine.stats.events == 1)

        let_pass(clock, 60, engine)
        assert side.silent_routers == ["router-1", "router-1"]


async def test_a_router_silent_for_long_is_forgotten_and_can_be_attached_again(side: Side) -> None:
    clock = ManualClock()
    receiver, endpoint = await side.router(Recorder())
    await receiver.close()
    engine = side.engine(clock=clock)
    engine.attach(endpoint)

    let_pass(clock, 60 + QUIET.forget_router_after_s, engine)
    sent = engine.stats.messages
    let_pass(clock, 200, engine)
    assert engine.stats.messages == sent

    engine.attach(endpoint)
    assert engine.router_ids == {"router-1"}


async def test_a_changed_status_is_reported_with_the_next_tick_and_an_unchanged_one_with_the_heartbeat(
    side: Side,
) -> None:
    clock, recorder, generations = ManualClock(), Recorder(), [0]
    config = ChannelConfig(heartbeat_interval_s=100, status_interval_s=10, silence_timeout_s=1000)
    engine = side.engine(config=config, clock=clock, report=lambda: status(generations=generations[0]))
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    let_pass(clock, 80, engine)
    assert engine.stats.messages == 1
    let_pass(clock, 10, engine)
    assert engine.stats.messages == 2
    generations[0] = 1
    let_pass(clock, 50, engine)
    assert engine.stats.messages == 3

    await recorder.until(lambda: len(recorder.statuses) == 3)
    assert [report.generations for report in recorder.statuses] == [0, 0, 1]


async def test_an_engine_whose_status_fails_still_sends_its_events(side: Side) -> None:
    def fail() -> EngineStatus:
        raise RuntimeError("planted")

    clock, recorder = ManualClock(), Recorder()
    engine = side.engine(clock=clock, report=fail)
    _, endpoint = await side.router(recorder)
    engine.attach(endpoint)

    engine.send("router-1", 1, 1, 0, delta(0))
    let_pass(clock, 30, engine)
    await recorder.until(lambda: bool(recorder.events))

    assert recorder.statuses == []


async def test_timers_keep_a_channel_alive_and_notice_its_end() -> None:
    config = ChannelConfig(heartbeat_interval_s=0.05, status_interval_s=0.01, silence_timeout_s=0.5)
    recorder, silent_routers = Recorder(), list[str]()
    receiver = ChannelReceiver("router-1", recorder, config, HOST)
    gone = ChannelReceiver("gone", Recorder(), config, HOST)
    engine = ChannelSender("engine-1", status, silent_routers.append, config)
    try:
        engine.attach(await receiver.start())
        engine.attach(await gone.start())
        await gone.close()
        await until(lambda: "gone" in silent_routers)
        await recorder.until(lambda: len(recorder.statuses) > 5)
        await until(lambda: engine.router_ids == {"router-1"})

        await engine.close()
        await recorder.until(lambda: "engine-1" in recorder.silent)
    finally:
        await engine.close()
        await receiver.close()


@pytest.mark.parametrize("engine_id", ["", "e" * 256])
def test_an_engine_id_that_zeromq_cannot_carry_is_refused(engine_id: str) -> None:
    with pytest.raises(ValueError, match="engine_id"):
        ChannelSender(engine_id, status, lambda router_id: None, QUIET)


async def test_a_router_lives_on_after_a_mark_once_it_acknowledged_a_report_made_later(side: Side) -> None:
    clock = ManualClock()
    with raw_router("router-1") as (socket, endpoint):
        engine = side.engine(clock=clock)
        assert engine.mark(endpoint.router_id) is None
        engine.attach(endpoint)
        before = engine.mark(endpoint.router_id)
        assert before is not None
        await answer(socket)  # to the report that the engine made before
        await until(lambda: engine.stats.acknowledgements == 1)
        engine.tick(clock.now)
        assert not engine.acknowledged_since(endpoint.router_id, before)

        clock.now += QUIET.heartbeat_interval_s
        engine.tick(clock.now)
        await answer(socket)
        await until(lambda: engine.stats.acknowledgements == 2)
        engine.tick(clock.now)
        assert engine.acknowledged_since(endpoint.router_id, before)
        assert not engine.acknowledged_since("unknown", before)
