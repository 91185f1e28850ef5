"""Engine replicas without Ray or sockets: what the router's lifecycle is tested against."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import ServeAppError
from serve_app.core.events import StreamEvent
from serve_app.core.request import GenerationRequest
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo
from serve_app.token_channel.retained_events import LogPositions, RetainedEvents

ENDPOINT = ChannelEndpoint(1, "router", "tcp://127.0.0.1:1", b"", b"", b"")


def status(engine_id: str, model: str = "m", capacity: int = 4) -> EngineStatus:
    """The report of a ready replica."""
    return EngineStatus(engine_id, model, EngineLoad(), capacity, 0, 1, True, 4096)


@dataclass
class Call:
    """One `generate` call under way at a fake replica."""

    engine_id: str
    request: GenerationRequest
    reply_to: ReplyTo
    result: asyncio.Future[int]
    cancelled: bool = False
    group: str = ""

    def wire(self, from_seq: int, *events: StreamEvent) -> list[WireEvent]:
        """`events` as the channel delivers them."""
        stream_id, attempt = self.reply_to.stream_id, self.reply_to.attempt
        return [(stream_id, attempt, seq, event) for seq, event in enumerate(events, from_seq)]


@dataclass
class FakeEngineCaller:
    """Implements `EngineCaller`: tests decide what each call returns."""

    calls: list[Call] = field(default_factory=list)
    log: dict[tuple[str, int, int], list[WireEvent] | None] = field(default_factory=dict)
    log_reads: list[dict[tuple[int, int], int]] = field(default_factory=list)
    log_answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, reads of the log get no answer."""
    attached: list[str] = field(default_factory=list)
    attach_error: ServeAppError | None = None
    kept: list[tuple[str, LiveStreams]] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.log_answers.set()

    async def generate(self, engine_id: str, group: str, request: GenerationRequest, reply_to: ReplyTo) -> int:
        call = Call(engine_id, request, reply_to, asyncio.get_running_loop().create_future(), group=group)
        self.calls.append(call)
        try:
            return await call.result
        except asyncio.CancelledError:
            call.cancelled = True
            raise

    async def read_logs(self, engine_id: str, group: str, router_id: str, positions: LogPositions) -> RetainedEvents:
        self.log_reads.append(dict(positions))
        await self.log_answers.wait()
        logs = {key: self.log.get((router_id, *key)) for key in positions}
        known = {key: events for key, events in logs.items() if events is not None}
        return RetainedEvents(frozenset(known), [e for key, events in known.items() for e in events[positions[key] :]])

    async def attach(self, engine_id: str, group: str, endpoint: ChannelEndpoint) -> None:
        self.attached.append(engine_id)
        if self.attach_error is not None:
            raise self.attach_error

    async def keep_only(self, engine_id: str, group: str, live: LiveStreams) -> None:
        self.kept.append((engine_id, live))

    def wake(self, group: str) -> None:
        self.woken.append(group)

    async def close(self) -> None:
        self.closed = True
