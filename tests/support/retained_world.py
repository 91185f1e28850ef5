"""Routers and engines of one application in one process: everything but Ray and sockets is the real thing.

Run it in virtual time (`tests.support.virtual_loop`): each engine gives one token every 10 ms of it.
"""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Sequence
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import EngineLost
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.interfaces import Emit, TokenStream
from serve_app.core.request import GenerationRequest, Prompt, Retention, Sampling
from serve_app.core.served_models import one_pool_each
from serve_app.engine import generation_server
from serve_app.engine.generation_server import GenerationServer
from serve_app.resilience.retention import RetentionConfig
from serve_app.router.config import RouterConfig
from serve_app.router.kept_answers import KeptAnswers
from serve_app.router.lifecycle import RouterLifecycle
from serve_app.telemetry.config import TelemetryConfig
from serve_app.telemetry.logging import RequestLog
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo
from serve_app.token_channel.handover import Claim, ClaimReply
from serve_app.token_channel.retained_events import LogPositions, RetainedEvents

T = TypeVar("T")

MODEL = "m"
KEY = "0123456789abcdef0123456789abcdef"
STEP_S = 0.01
TRAVEL_S = 0.001
"""Time that a call or a message takes."""
CHANNEL = ChannelConfig()


def request(
    tokens: int = 100, key: str = KEY, tenant: str = "t", grace_s: float | None = 30.0, timeout_s: float | None = None
) -> GenerationRequest:
    """A resumable request for an answer of `tokens` tokens."""
    return GenerationRequest(
        f"req-{key[:4]}",
        MODEL,
        Prompt(text="hi"),
        Sampling(max_tokens=tokens),
        tenant,
        timeout_s=timeout_s,
        retention=Retention(key, b"envelope", grace_s),
    )


def word(place: int) -> str:
    """The text of one output token; every seventh completes what the one before left open."""
    return "" if place % 7 == 5 else f"w{place} "


def text_of(events: Sequence[StreamEvent]) -> str:
    """The text of a whole stream or of a part of it."""
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


def whole(tokens: int, start: int = 0) -> str:
    """What an answer says from one token on."""
    return "".join(word(place) for place in range(start, tokens))


async def read(stream: TokenStream, tokens: int | None = None) -> list[StreamEvent]:
    """Read to the end, or until `tokens` output tokens have come."""
    events: list[StreamEvent] = []
    count = 0
    while tokens is None or count < tokens:
        batch = await stream.next()
        if batch is None:
            break
        events += batch
        count += sum(event.count for event in batch if isinstance(event, TokenDelta))
    return events


class Engine:
    """Says `whole(max_tokens)`, one token a step, from where a continuation stands."""

    max_model_len = 100_000
    max_token_bytes = 0

    def __init__(self) -> None:
        self.running = 0
        self.computed = 0
        """Output tokens, over all generations."""
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def start(self) -> None: ...

    async def generate(self, request: GenerationRequest, emit: Emit) -> None:
        self.running += 1
        try:
            emit(Accepted(3, [1, 2, 3]))
            going_on = request.continuation
            start = 0 if going_on is None else len(going_on.output_token_ids)
            if going_on is not None:
                assert going_on.output_token_ids == tuple(range(100, 100 + start))
                assert going_on.text_sent == whole(start)
            assert request.sampling.max_tokens is not None
            for place in range(start, request.sampling.max_tokens):
                await asyncio.sleep(STEP_S)
                await self.flowing.wait()
                self.computed += 1
                emit(TokenDelta(0, place, 1, word(place), [100 + place]))
            emit(Finished(0, FinishReason.LENGTH))
        finally:
            self.running -= 1

    def load(self) -> EngineLoad:
        return EngineLoad(running=self.running, steps=self.computed)

    async def check_health(self) -> None: ...

    def metrics_text(self) -> bytes:
        return b""

    async def close(self) -> None: ...


class World:
    """`routers` and `engines` by name. Dead ones neither answer nor are heard."""

    def __init__(self, routers: int = 2, engines: int = 2, **retention: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.retention = RetentionConfig.model_validate(retention)
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        """Routers that hang: they answer nothing, and acknowledge nothing."""
        self.engines = {f"e{number}": EngineReplica(f"e{number}", self) for number in range(engines)}
        self.routers = {f"r{number}": RouterReplica(f"r{number}", self) for number in range(routers)}

    async def __aenter__(self) -> World:
        for engine in self.engines.values():
            await engine.server.start()
        for router in self.routers.values():
            await router.lifecycle.start(router.endpoint)
            router.streams.start()
            router.lifecycle.replicas_listed(MODEL, frozenset(self.engines))
        self.ticking = self.loop.create_task(self._tick())
        await asyncio.sleep(0.2)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.ticking.cancel()
        for router in self.routers.values():
            await router.streams.close()
            await router.lifecycle.close()
        for engine in self.engines.values():
            await engine.server.close()

    def __getitem__(self, router: str) -> KeptAnswers:
        return self.routers[router].streams

    async def kill_router(self, name: str, cancel_calls: bool = True) -> None:
        """The process is gone; with `cancel_calls` Serve cancels what it had called."""
        self.dead.add(name)
        calls = list(self.routers[name].lifecycle.conductor.calls.running())
        if cancel_calls:
            for call in calls:
                call.cancel()
        await asyncio.sleep(0)

    def kill_engine(self, name: str) -> None:
        """The process is gone, and Serve saw it."""
        self.dead.add(name)
        engine = self.engines[name]
        for call in list(engine.calls):
            call.set_exception(EngineLost("dead"))
        for router in self.routers.values():
            router.lifecycle.replica_died(name)
            router.lifecycle.replicas_listed(MODEL, frozenset(self.engines) - self.dead)

    @property
    def running(self) -> int:
        """Generations at engines that live."""
        return sum(engine.engine.running for name, engine in self.engines.items() if name not in self.dead)

    async def _tick(self) -> None:
        while True:
            for name, engine in self.engines.items():
                if name not in self.dead:
                    engine.sender.tick(self.loop.time())
            await asyncio.sleep(0.1)


class WiredSender:
    """Stands for `ChannelSender`: events and reports reach the routers `TRAVEL_S` later."""

    def __init__(self, world: World, engine_id, status, on_router_silent) -> None:
        self.world = world
        self.engine_id = engine_id
        self.status = status
        self.on_router_silent = on_router_silent
        self.router_ids: set[str] = set()
        self.heard: dict[str, float] = {}
        self.reports: dict[str, int] = {}
        """Number of the next report to each router."""
        self.acknowledged: dict[str, int] = {}
        """Number of the last one that it acknowledged."""

    def attach(self, endpoint: ChannelEndpoint) -> None:
        if endpoint.router_id not in self.world.dead:
            self.router_ids.add(endpoint.router_id)
            self.heard[endpoint.router_id] = self.world.loop.time()
            self.reports.setdefault(endpoint.router_id, 0)

    def mark(self, router_id: str) -> int | None:
        return self.reports.get(router_id)

    def acknowledged_since(self, router_id: str, mark: int) -> bool:
        return self.acknowledged.get(router_id, -1) >= mark

    def send(self, router_id: str, stream_id: int, attempt: int, seq: int, event: StreamEvent) -> None:
        self.world.loop.call_later(TRAVEL_S, self._arrive, router_id, [(stream_id, attempt, seq, event)])

    def tick(self, now: float) -> None:
        for router_id in sorted(self.router_ids):
            if router_id not in self.world.dead | self.world.silent:
                self.heard[router_id] = now
                self.acknowledged[router_id] = self.reports[router_id]
                self.reports[router_id] += 1
                self.world.routers[router_id].lifecycle.on_status(self.status())
            elif now - self.heard[router_id] >= CHANNEL.silence_timeout_s:
                self.router_ids.remove(router_id)
                self.on_router_silent(router_id)

    async def close(self) -> None: ...

    def _arrive(self, router_id: str, events: list[WireEvent]) -> None:
        if not {router_id, self.engine_id} & (self.world.dead | self.world.silent):
            self.world.routers[router_id].lifecycle.on_events(self.engine_id, events)


class EngineReplica:
    """One engine replica."""

    def __init__(self, name: str, world: World) -> None:
        self.engine = Engine()
        self.calls: set[asyncio.Future[int]] = set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                generation_server,
                "ChannelSender",
                lambda engine_id, status, on_silent, config, clock: WiredSender(world, engine_id, status, on_silent),
            )
            self.server = GenerationServer(name, MODEL, self.engine, 64, CHANNEL, world.loop.time, world.retention)
        self.sender: WiredSender = self.server._sender  # type: ignore[assignment]  # it was made one


class RouterReplica:
    """One router replica."""

    def __init__(self, name: str, world: World) -> None:
        self.endpoint = ChannelEndpoint(1, name, "tcp://127.0.0.1:1", b"", b"", b"")
        self.metrics = ServeMetrics(CollectorRegistry(), [MODEL])
        config = RouterConfig(retention=world.retention)
        log = RequestLog(TelemetryConfig(request_log=True))
        self.lifecycle = RouterLifecycle(
            one_pool_each(MODEL),
            1,
            config,
            Caller(name, world),
            self.metrics,
            log,
            world.loop.time,
            random.Random(1),
        )
        self.streams = KeptAnswers(
            name,
            self.lifecycle,
            Neighbours(world),
            world.retention,
            config.stream_buffer_bytes,
            self.metrics,
            log,
            world.loop.time,
        )

    def sample(self, name: str, **labels: str) -> float:
        """The value of one metric, summed over what `labels` leave open."""
        self.streams.publish_metrics()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.metrics.text().decode().splitlines()
        found = [line for line in lines if line.startswith(name) and all(label in line for label in wanted)]
        assert found, f"no sample {name} {labels}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def across_processes(value: T) -> T:
    """What Ray makes of `value` on its way to another process."""
    copy: T = pickle.loads(pickle.dumps(value))
    return copy


class Caller:
    """Implements `EngineCaller` as Serve does: a cancelled call is cancelled at the replica."""

    def __init__(self, router: str, world: World) -> None:
        self.router = router
        self.world = world

    async def generate(self, engine_id: str, group: str, request: GenerationRequest, reply_to: ReplyTo) -> int:
        engine = await self._reach(engine_id)
        running = asyncio.ensure_future(engine.server.generate(across_processes(request), reply_to))
        lost: asyncio.Future[int] = self.world.loop.create_future()
        engine.calls.add(lost)
        try:
            await asyncio.wait((running, lost), return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else running.result()
        finally:
            engine.calls.discard(lost)
            running.cancel()

    async def read_logs(self, engine_id: str, group: str, router_id: str, positions: LogPositions) -> RetainedEvents:
        engine = await self._reach(engine_id)
        return engine.server.read_logs(router_id, positions)

    async def attach(self, engine_id: str, group: str, endpoint: ChannelEndpoint) -> None:
        (await self._reach(engine_id)).server.attach(endpoint)

    async def keep_only(self, engine_id: str, group: str, live: LiveStreams) -> None:
        (await self._reach(engine_id)).server.keep_only(live)

    def wake(self, group: str) -> None: ...

    async def close(self) -> None: ...

    async def _reach(self, engine_id: str) -> EngineReplica:
        await asyncio.sleep(TRAVEL_S)
        if self.router in self.world.dead:
            await self.world.loop.create_future()  # the dead do nothing
        if engine_id in self.world.dead:
            raise EngineLost("dead")
        return self.world.engines[engine_id]


class Neighbours:
    """Implements `Holders`."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ask_routers(self, claim: Claim) -> Sequence[ClaimReply]:
        await asyncio.sleep(TRAVEL_S)
        world = self.world
        if world.silent:
            await asyncio.sleep(world.retention.claim_timeout_s)
        there = [router.streams for name, router in world.routers.items() if name not in world.dead | world.silent]
        answers = [across_processes(streams.answer(claim)) for streams in there]
        await asyncio.sleep(TRAVEL_S)
        return answers

    async def ask_engines(self, claim: Claim) -> Sequence[ClaimReply]:
        await asyncio.sleep(TRAVEL_S)
        there = [engine.server for name, engine in self.world.engines.items() if name not in self.world.dead]
        answers = [across_processes(server.claim(claim)) for server in there]
        await asyncio.sleep(TRAVEL_S)
        return answers
