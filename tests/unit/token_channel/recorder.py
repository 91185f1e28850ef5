"""What the channel's tests share: a recording listener, a clock moved by hand, and quick settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.events import TokenDelta
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.config import ChannelConfig

HOST = "127.0.0.1"
PATIENCE_S = 20.0
QUIET = ChannelConfig(heartbeat_interval_s=30, status_interval_s=30, silence_timeout_s=60)
"""No timer fires during a test: only what the test does is sent."""


class ManualClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A `ChannelListener` that keeps everything, and lets a test wait for it."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[WireEvent]]] = []
        self.statuses: list[EngineStatus] = []
        self.silent: list[str] = []
        self.lost: list[str] = []
        self.order: list[str] = []
        self._changed = asyncio.Event()

    def on_events(self, engine_id: str, events: Sequence[WireEvent]) -> None:
        self.order.append("events")
        self.batches.append((engine_id, list(events)))
        self._changed.set()

    def on_status(self, status: EngineStatus) -> None:
        self.order.append("status")
        self.statuses.append(status)
        self._changed.set()

    def on_silent(self, engine_id: str) -> None:
        self.silent.append(engine_id)
        self._changed.set()

    def on_loss(self, engine_id: str) -> None:
        self.lost.append(engine_id)
        self._changed.set()

    @property
    def events(self) -> list[WireEvent]:
        """All events, of all engines, in the order of arrival."""
        return [event for _, events in self.batches for event in events]

    @property
    def engines(self) -> set[str]:
        """The engines that reported."""
        return {status.engine_id for status in self.statuses}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is tried at each call of the channel."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, where nothing tells of it."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def status(engine_id: str = "engine-1", generations: int = 0) -> EngineStatus:
    """A report of `engine_id`."""
    return EngineStatus(engine_id, "tiny", EngineLoad(running=generations), 8, generations, 1, True, 4096)


def delta(index: int, text: str = "x") -> TokenDelta:
    """One token of choice 0."""
    return TokenDelta(0, index, 1, text, [index])
