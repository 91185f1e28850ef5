from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import ContextLengthExceeded, EngineFailed, EngineFull
from serve_app.core.events import Accepted, Failed, Finished, FinishReason, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.engine import generation_server
from serve_app.engine.generation_server import SENT_S, SWEEP_S, GenerationServer
from serve_app.engine.kept_generations import KeptGenerations
from serve_app.engine.sent_log import SentLog
from serve_app.resilience.retention import RetentionConfig
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import LiveStreams, ReplyTo
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.handover import Claim, HandedOver
from serve_app.token_channel.packed_events import unpack
from serve_app.token_channel.retained_events import RetainedEvents
from serve_app.token_channel.stats import SenderStats
from tests.support.fake_engines import ENDPOINT
from tests.support.retained_world import World, read, request
from tests.support.settling import settle
from tests.support.virtual_loop import run_virtual
from tests.unit.router.decisions.driven_core import DrivenCore

REQUEST = GenerationRequest("r", "m", Prompt(text="hi"))
RETAINED = replace(REQUEST, tenant="t", retention=Retention("k", grace_s=10.0))
ANSWER = [Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [2]), Finished(0, FinishReason.STOP)]


class FakeEngine:
    """Emits the answer, then waits for `gate`, then raises `error` if there is one."""

    max_model_len = 64
    max_token_bytes = 8

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.healthy = True
        self.aborted = 0
        self.closed = False

    async def start(self) -> None: ...

    async def generate(self, request, emit) -> None:
        try:
            for event in ANSWER:
                emit(event)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if self.error is not None:
            raise self.error

    def load(self) -> EngineLoad:
        return EngineLoad(running=1)

    async def check_health(self) -> None:
        if not self.healthy:
            raise EngineFailed("sick")

    def metrics_text(self) -> bytes:
        return b"x 1\n"

    async def close(self) -> None:
        self.closed = True


class FakeSender:
    """Stands for the token channel."""

    def __init__(self, engine_id, status, on_router_silent, config, clock) -> None:
        self.on_router_silent = on_router_silent
        self.sent: list[tuple[object, ...]] = []
        self.router_ids: set[str] = set()
        self.stats = SenderStats()

    def attach(self, endpoint) -> None:
        self.router_ids.add(endpoint.router_id)

    def mark(self, router_id) -> int | None:
        return None

    def acknowledged_since(self, router_id, mark) -> bool:
        return False

    def send(self, router_id, stream_id, attempt, seq, event) -> None:
        self.sent.append((router_id, stream_id, attempt, seq, event))

    async def close(self) -> None: ...


@pytest.fixture
async def server(monkeypatch):
    monkeypatch.setattr(generation_server, "ChannelSender", FakeSender)
    server = GenerationServer("e1", "m", FakeEngine(), capacity=2, channel=ChannelConfig())
    await server.start()
    return server


def reply_to(stream_id: int, attempt: int = 1) -> ReplyTo:
    return ReplyTo(ENDPOINT, stream_id, attempt)


async def test_events_are_numbered_sent_and_counted(server):
    assert await server.generate(REQUEST, reply_to(7)) == 3
    assert server._sender.sent == [("router", 7, 1, seq, event) for seq, event in enumerate(ANSWER)]


async def test_events_can_be_read_again_as_they_were_sent(server):
    await server.generate(REQUEST, reply_to(7))

    await server.generate(REQUEST, reply_to(9, attempt=2))

    found = server.read_logs("router", {(7, 1): 1, (8, 1): 0, (9, 2): 2, (9, 1): 0})
    assert found.known == {(7, 1), (9, 2)}
    assert found.events == [(7, 1, 1, ANSWER[1]), (7, 1, 2, ANSWER[2]), (9, 2, 2, ANSWER[2])]
    assert RetainedEvents.unpacked(*found.packed()) == found
    assert not server.read_logs("another router", {(7, 1): 0}).known


async def test_cap_is_the_last_word(server):
    server._engine.gate.clear()
    running = [asyncio.create_task(server.generate(REQUEST, reply_to(stream))) for stream in (1, 2)]
    await asyncio.sleep(0)
    assert server.status().generations == 2

    with pytest.raises(EngineFull):
        await server.generate(REQUEST, reply_to(3))
    server._engine.gate.set()
    await asyncio.gather(*running)
    assert server.status().generations == 0
    assert await server.generate(REQUEST, reply_to(3)) == 3


async def test_each_choice_counts_and_a_large_request_starts_in_the_last_place(server):
    three = replace(REQUEST, sampling=replace(REQUEST.sampling, n=3))
    server._engine.gate.clear()
    one = asyncio.create_task(server.generate(REQUEST, reply_to(1)))
    await asyncio.sleep(0)
    large = asyncio.create_task(server.generate(three, reply_to(2)))
    await asyncio.sleep(0)
    assert server.status().generations == 4
    with pytest.raises(EngineFull):
        await server.generate(REQUEST, reply_to(3))
    server._engine.gate.set()
    assert list(await asyncio.gather(one, large)) == [3, 3]
    assert server.status().generations == 0


@pytest.mark.parametrize("choices", [2, 4, 16])
async def test_what_a_router_sends_into_half_of_its_share_is_taken(choices, monkeypatch):
    monkeypatch.setattr(generation_server, "ChannelSender", FakeSender)
    core = DrivenCore("a", capacity=8)
    for stream_id in range(1, 9):
        core.begin(stream_id)
    core.offer(9, choices=choices)
    while 9 not in core.running:
        core.end(next(iter(core.running)))
    engine = FakeEngine()
    server = GenerationServer("a", "m", engine, 8, ChannelConfig())
    await server.start()
    engine.gate.clear()
    running = [
        asyncio.create_task(server.generate(REQUEST, reply_to(stream_id)))
        for stream_id in core.running
        if stream_id != 9
    ]
    await asyncio.sleep(0)
    large = replace(REQUEST, sampling=replace(REQUEST.sampling, n=choices))
    running.append(asyncio.create_task(server.generate(large, reply_to(9))))
    await asyncio.sleep(0)
    engine.gate.set()
    assert await asyncio.gather(*running) == [3] * len(running)


async def test_what_the_engine_raises_becomes_the_last_event(server):
    server._engine.error = ContextLengthExceeded("too long", "messages")

    assert await server.generate(REQUEST, reply_to(1)) == 4
    assert server._sender.sent[-1][-1] == Failed("context_length_exceeded", "too long", "messages")


async def test_unexpected_exception_tells_its_kind_but_not_its_text(server):
    server._engine.error = RuntimeError("secret prompt")
    await server.generate(REQUEST, reply_to(1))

    failed = server._sender.sent[-1][-1]
    assert failed.code == "engine_failed"
    assert "RuntimeError" in failed.message and "secret" not in failed.message


async def test_cancelled_call_aborts_and_frees_its_place(server):
    server._engine.gate.clear()
    running = asyncio.create_task(server.generate(REQUEST, reply_to(1)))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert server._engine.aborted == 1
    assert server.status().generations == 0


async def test_generations_of_a_silent_router_are_aborted_and_no_others(server):
    server._engine.gate.clear()
    running = asyncio.create_task(server.generate(REQUEST, reply_to(1)))
    await asyncio.sleep(0)
    server._sender.on_router_silent("another router")
    await asyncio.sleep(0)
    assert not running.done()

    server._sender.on_router_silent("router")
    await asyncio.gather(running, return_exceptions=True)
    assert server._engine.aborted == 1


async def test_only_what_its_router_still_wants_goes_on(server):
    server._engine.gate.clear()
    server._capacity = 10
    runs = {
        key: asyncio.create_task(server.generate(REQUEST, reply_to(*key))) for key in [(1, 1), (2, 1), (2, 2), (9, 1)]
    }
    await asyncio.sleep(0)

    assert server.keep_only(LiveStreams("another router", 100, {})) == 0
    assert server.keep_only(LiveStreams("router", 8, {2: 2})) == 2
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [key for key, run in runs.items() if not run.done()] == [(2, 2), (9, 1)]
    server._engine.gate.set()
    await asyncio.gather(*runs.values(), return_exceptions=True)


async def test_a_cancelled_call_leaves_a_retained_generation_running(server):
    server._engine.gate.clear()
    running = asyncio.create_task(server.generate(RETAINED, reply_to(1)))
    await settle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert (server._engine.aborted, server.status().generations) == (0, 1)

    server._engine.gate.set()
    await settle()
    assert server.status().generations == 0
    assert server.claim(Claim("k", "t", "other")).ended


async def test_a_retained_generation_outlives_its_routers_silence(server):
    server._engine.gate.clear()
    running = asyncio.create_task(server.generate(RETAINED, reply_to(1)))
    await settle()
    server._sender.on_router_silent("router")
    await settle()

    assert not running.done()
    server._engine.gate.set()
    assert await running == 3


async def test_a_claimed_generation_is_aborted_and_its_router_told_without_an_error_of_the_call(server):
    server._engine.gate.clear()
    running = asyncio.create_task(server.generate(RETAINED, reply_to(1)))
    await settle()
    answer = server.claim(Claim("k", "t", "other"))

    assert isinstance(answer, HandedOver) and unpack(answer.parts) == ANSWER
    assert await running == 4
    assert server._engine.aborted == 1
    assert server._sender.sent[-1][-1].code == "stream_taken_over"


async def test_a_retained_generation_that_is_aborted_before_it_began_frees_its_place(server):
    running = asyncio.create_task(server.generate(RETAINED, reply_to(1)))
    await asyncio.sleep(0)
    assert server.keep_only(LiveStreams("router", 1, {})) == 1

    assert await running == 0
    assert server.status().generations == 0


async def test_nothing_looks_after_generations_while_there_are_none(server):
    assert server._sweep_timer is None
    assert await server.generate(REQUEST, reply_to(1)) == 3
    await settle()
    assert server._sweep_timer is not None
    await server.close()


def test_an_idle_engine_forgets_what_it_has_sent() -> None:
    async def idle() -> None:
        async with World(routers=1, engines=1) as world:
            server = world.engines["e0"].server
            stream = world["r0"]._lifecycle.open(replace(request(30), retention=None))
            await read(stream)
            assert server._log.has_ended
            await asyncio.sleep(SENT_S + 2 * SWEEP_S)
            assert not server._log.has_ended and server._log.ended_bytes == 0
            assert server._sweep_timer is None

    run_virtual(idle())


async def test_the_end_of_a_long_generation_holds_the_loop_shortly(server):
    """131,072 tokens took 50 ms in one turn when they were all encoded at the end."""
    log = EventLog([Accepted(1, [1])])
    for index in range(131_072):
        log.append(TokenDelta(0, index, 1, "word ", [index]))
    kept = KeptGenerations(RetentionConfig(), server._sender)
    key = ("router", 1, 1)
    sent = SentLog(30.0, 1 << 24)
    sent._running[key] = log
    kept.begin(RETAINED, key, log, 0.0)

    began_s = time.thread_time()
    sent.end(key, 0.0)
    kept.end(key, 0.0)
    took_s = time.thread_time() - began_s

    assert took_s < 0.025


async def test_status_reports_capacity_routers_and_readiness(server):
    server.attach(ENDPOINT)
    status = server.status()
    assert (status.capacity, status.routers, status.ready, status.max_model_len) == (2, 1, True, 64)
    assert status.max_token_bytes == 8

    server._engine.healthy = False
    with pytest.raises(EngineFailed):
        await server.check_health()
    assert not server.status().ready


async def test_closing_aborts_what_runs_and_closes_the_engine(server):
    server._engine.gate.clear()
    running = asyncio.create_task(server.generate(REQUEST, reply_to(1)))
    await asyncio.sleep(0)
    await server.close()
    await asyncio.gather(running, return_exceptions=True)

    assert server._engine.aborted == 1
    assert server._engine.closed


def test_what_could_not_be_sent_is_among_the_metrics(server):
    server._sender.stats.dropped_events = 7
    lines = server.metrics_text().decode().splitlines()
    assert "x 1" in lines, "the engine's own"
    assert "serve_app_channel_unsent_events_total 7.0" in lines
