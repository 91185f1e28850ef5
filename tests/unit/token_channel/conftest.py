"""Channels on loopback, closed after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from serve_app.core.engine_status import EngineStatus
from serve_app.core.interfaces import Clock
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint
from serve_app.token_channel.receiver import ChannelReceiver
from serve_app.token_channel.sender import ChannelSender
from tests.unit.token_channel.recorder import HOST, QUIET, ManualClock, Recorder, status


class Side:
    """Makes routers and engines and closes them in the end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.silent_routers: list[str] = []

    async def router(
        self, recorder: Recorder, router_id: str = "router-1", config: ChannelConfig = QUIET, clock: Clock | None = None
    ) -> tuple[ChannelReceiver, ChannelEndpoint]:
        """Start a router's side that tells `recorder`."""
        receiver = ChannelReceiver(
            router_id, recorder, config, HOST, clock=clock or ManualClock(), on_loss=recorder.on_loss
        )
        self._stack.push_async_callback(receiver.close)
        return receiver, await receiver.start()

    def engine(
        self,
        engine_id: str = "engine-1",
        config: ChannelConfig = QUIET,
        clock: Clock | None = None,
        report: Callable[[], EngineStatus] | None = None,
    ) -> ChannelSender:
        """Make an engine's side."""
        sender = ChannelSender(
            engine_id,
            report or (lambda: status(engine_id)),
            self.silent_routers.append,
            config,
            clock=clock or ManualClock(),
        )
        self._stack.push_async_callback(sender.close)
        return sender


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """A maker of both sides."""
    async with AsyncExitStack() as stack:
        yield Side(stack)
