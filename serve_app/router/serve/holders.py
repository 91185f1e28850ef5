"""Asks the other router replicas and all engine replicas for a retained stream: `Holders` on Ray."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Mapping, Sequence

from ray.serve.handle import DeploymentHandle

from serve_app.core.errors import EngineLost
from serve_app.router.serve import live_replicas
from serve_app.router.serve.pinned_calls import PinnedCalls
from serve_app.token_channel.handover import Answer, Claim

logger = logging.getLogger(__name__)


class ServeHolders:
    """Implements `Holders`. Safe to use concurrently on one event loop."""

    def __init__(self, routers: DeploymentHandle, engines: Mapping[str, PinnedCalls], timeout_s: float) -> None:
        """`engines` has each engine deployment by name. Each replica is waited for at most `timeout_s` seconds."""
        self._routers = routers
        self._engines = dict(engines)
        self._timeout_s = timeout_s

    async def ask_routers(self, claim: Claim) -> Sequence[Answer]:
        """See `Holders.ask_routers`."""
        # Not pinned, as engines are: behind HAProxy Serve allows no request router on the ingress deployment.
        try:
            # In an empty context: a stream on its way must not be lost with the HTTP request that asked for it.
            broadcast = contextvars.Context().run(self._routers.broadcast, "claim", claim)
            # One by one, which the public `results_async` does not offer: a router that hangs must not cost the answer
            # of the one that gave the stream up.
            results = await asyncio.wait_for(broadcast._fetch_replica_results_async(), self._timeout_s)
        except Exception as error:
            logger.warning("looking for a retained stream at the other routers failed: %s", error)
            return []
        return await asyncio.gather(*(self._answer_of(result.get_async()) for result in results))

    async def _answer_of(self, result: Awaitable[Answer]) -> Answer:
        try:
            return await asyncio.wait_for(result, self._timeout_s)
        except Exception as error:
            logger.info("a router did not say whether it has a retained stream: %s", error or "no answer")
            return None

    async def ask_engines(self, claim: Claim) -> Sequence[Answer]:
        """See `Holders.ask_engines`."""
        asked = [
            self._ask_engine(calls, replica, claim)
            for deployment, calls in self._engines.items()
            for replica in live_replicas.listed(deployment)
        ]
        return await asyncio.gather(*asked)

    async def _ask_engine(self, calls: PinnedCalls, replica: str, claim: Claim) -> Answer:
        try:
            answer: Answer = await asyncio.wait_for(calls.call("claim", replica, claim), self._timeout_s)
        except EngineLost:
            return None
        except Exception as error:
            logger.warning("engine %s did not say whether it has a retained stream: %s", replica, error)
            return None
        return answer
