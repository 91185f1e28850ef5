"""What a router does for the engine replicas beside requests: attaches them, and ends what nobody wants any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

from serve_app.core.errors import ServeAppError
from serve_app.router.decisions.engine_pool import EnginePool
from serve_app.router.engine_caller import EngineCaller
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams

CALL_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class EngineUpkeep:
    """Says which calls are due; at most one of each kind is under way at a replica. Used from one event loop."""

    def __init__(self, caller: EngineCaller) -> None:
        self._caller = caller
        self._under_way: set[tuple[str, str]] = set()

    def due(
        self, pool: EnginePool, endpoint: ChannelEndpoint, live: LiveStreams
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """The calls that the replicas in `pool` need now, for the caller to run.

        Replicas that Serve lists and that do not report are asked to attach. Where one runs more than this router
        knows of, it is told what is still wanted, since Serve can lose a cancellation; with several routers that is
        the usual case, and costs two short calls a second and replica.
        """
        for engine_id, group in pool.unheard():
            if self._begin("attach", engine_id):
                yield self._run("attach", engine_id, self._caller.attach(engine_id, group, endpoint))
        for view in pool.views():
            if view.status.generations > view.in_flight and not view.silent and self._begin("sweep", view.engine_id):
                yield self._run("sweep", view.engine_id, self._caller.keep_only(view.engine_id, view.group, live))

    async def keep_only(self, engine_id: str, group: str, live: LiveStreams) -> None:
        """Tell one replica at once what is still wanted of it."""
        await self._run("end", engine_id, self._caller.keep_only(engine_id, group, live))

    def _begin(self, kind: str, engine_id: str) -> bool:
        if (kind, engine_id) in self._under_way:
            return False
        self._under_way.add((kind, engine_id))
        return True

    async def _run(self, kind: str, engine_id: str, call: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(call, CALL_TIMEOUT_S)
        except (ServeAppError, TimeoutError) as error:
            logger.info("%s call to engine %s failed: %s", kind, engine_id, error or "no answer")
        finally:
            self._under_way.discard((kind, engine_id))
