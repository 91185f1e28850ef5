"""Engine replicas without Ray or sockets: what the router's lifecycle is tested against."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import ServeAppError
from serve_app.core.events import StreamEvent
from serve_app.core.request import GenerationRequest
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo

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

    def wire(self, from_seq: int, *events: StreamEvent) -> list[WireEvent]:
        """`events` as the channel delivers them."""
        stream_id, attempt = self.reply_to.stream_id, self.reply_to.attempt
        return [(stream_id, attempt, seq, event) for seq, event in enumerate(events, from_seq)]


@dataclass
class FakeEngineCaller:
    """Implements `EngineCaller`: tests decide what each call returns."""

    calls: list[Call] = field(default_factory=list)
    log: dict[tuple[str, int, int], list[WireEvent] | None] = field(default_factory=dict)
    log_reads: list[int] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    attach_error: ServeAppError | None = None
    kept: list[tuple[str, LiveStreams]] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    closed: bool = False

    async def generate(self, engine_id: str, request: GenerationRequest, reply_to: ReplyTo) -> int:
        call = Call(engine_id, request, reply_to, asyncio.get_running_loop().create_future())
        self.calls.append(call)
        try:
            return await call.result
        except asyncio.CancelledError:
            call.cancelled = True
            raise

    async def read_log(
        self, engine_id: str, model: str, reply_to: ReplyTo, from_seq: int
    ) -> Sequence[WireEvent] | None:
        self.log_reads.append(from_seq)
        events = self.log.get(reply_to.key)
        return None if events is None else events[from_seq:]

    async def attach(self, engine_id: str, model: str, endpoint: ChannelEndpoint) -> None:
        self.attached.append(engine_id)
        if self.attach_error is not None:
            raise self.attach_error

    async def keep_only(self, engine_id: str, model: str, live: LiveStreams) -> None:
        self.kept.append((engine_id, live))

    def wake(self, model: str) -> None:
        self.woken.append(model)

    async def close(self) -> None:
        self.closed = True
