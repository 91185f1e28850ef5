"""Calls engine replicas through Serve handles: `EngineCaller` on Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from serve_app.core.errors import EngineFailed, EngineLost, ServeAppError
from serve_app.core.request import GenerationRequest
from serve_app.router.serve.pinned_calls import PinnedCalls
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo
from serve_app.token_channel.retained_events import NOTHING_RETAINED, LogPositions, RetainedEvents

ANY_REPLICA = ""

logger = logging.getLogger(__name__)


class ServeEngineCaller:
    """Implements `EngineCaller`; `calls` has every engine deployment by name."""

    def __init__(self, calls: Mapping[str, PinnedCalls]) -> None:
        self._calls = dict(calls)
        self._waking: dict[str, asyncio.Task[None]] = {}

    async def generate(self, engine_id: str, group: str, request: GenerationRequest, reply_to: ReplyTo) -> int:
        """See `EngineCaller.generate`."""
        try:
            sent: int = await self._deployment(group).call("generate", engine_id, request, reply_to)
        except ServeAppError:
            raise
        except Exception as error:
            logger.exception("request %s: the engine call failed", request.request_id)
            raise EngineFailed("The call to the engine failed.") from error
        return sent

    async def read_logs(self, engine_id: str, group: str, router_id: str, positions: LogPositions) -> RetainedEvents:
        """See `EngineCaller.read_logs`."""
        packed = await self._deployment(group).call("read_logs", engine_id, router_id, positions)
        return NOTHING_RETAINED if packed is None else RetainedEvents.unpacked(*packed)

    async def attach(self, engine_id: str, group: str, endpoint: ChannelEndpoint) -> None:
        """See `EngineCaller.attach`."""
        await self._deployment(group).call("attach", engine_id, endpoint)

    async def keep_only(self, engine_id: str, group: str, live: LiveStreams) -> None:
        """See `EngineCaller.keep_only`."""
        await self._deployment(group).call("keep_only", engine_id, live)

    def wake(self, group: str) -> None:
        """See `EngineCaller.wake`: one unpinned call stands until a replica answers it."""
        if group not in self._waking:
            task = self._waking[group] = asyncio.create_task(self._wake(group))
            task.add_done_callback(lambda _: self._waking.pop(group, None))

    async def close(self) -> None:
        """See `EngineCaller.close`."""
        for task in list(self._waking.values()):
            task.cancel()

    def _deployment(self, group: str) -> PinnedCalls:
        calls = self._calls.get(group)
        if calls is None:  # a replica may report to this router before Serve has listed it here
            raise EngineLost(f"Serve has not listed a replica of {group!r}.")
        return calls

    async def _wake(self, group: str) -> None:
        try:
            await self._deployment(group).call("wake", ANY_REPLICA)
        except Exception as error:
            logger.info("waking %s failed, tried again while requests wait: %s", group, error)
