"""Asks the other router replicas and all engine replicas for a kept stream: `Holders` on Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from ray.serve.handle import DeploymentHandle

from serve_app.core.errors import EngineLost
from serve_app.router.serve import live_replicas
from serve_app.router.serve.broadcast import ask_all
from serve_app.router.serve.pinned_calls import PinnedCalls
from serve_app.token_channel.handover import Claim, ClaimReply

logger = logging.getLogger(__name__)


class ServeHolders:
    """Implements `Holders`. Safe to use concurrently on one event loop."""

    def __init__(self, routers: DeploymentHandle, engines: Mapping[str, PinnedCalls], timeout_s: float) -> None:
        """`engines` has each engine deployment by name. Each replica is waited for at most `timeout_s` seconds."""
        self._routers = routers
        self._engines = dict(engines)
        self._timeout_s = timeout_s

    async def ask_routers(self, claim: Claim) -> Sequence[ClaimReply]:
        """See `Holders.ask_routers`."""
        try:
            answers = await ask_all(self._routers, "claim", claim, timeout_s=self._timeout_s)
        except Exception as error:
            logger.warning("looking for a kept stream at the other routers failed: %s", error)
            return []
        return [self._checked(answer) for answer in answers]

    @staticmethod
    def _checked(answer: ClaimReply | BaseException) -> ClaimReply:
        if isinstance(answer, BaseException):
            logger.info("a router did not say whether it has a kept stream: %s", answer or "no answer")
            return None
        return answer

    async def ask_engines(self, claim: Claim) -> Sequence[ClaimReply]:
        """See `Holders.ask_engines`."""
        asked = [
            self._ask_engine(calls, replica, claim)
            for deployment, calls in self._engines.items()
            for replica in live_replicas.listed(deployment)
        ]
        return await asyncio.gather(*asked)

    async def _ask_engine(self, calls: PinnedCalls, replica: str, claim: Claim) -> ClaimReply:
        try:
            answer: ClaimReply = await asyncio.wait_for(calls.call("claim", replica, claim), self._timeout_s)
        except EngineLost:
            return None
        except Exception as error:
            logger.warning("engine %s did not say whether it has a kept stream: %s", replica, error)
            return None
        return answer
