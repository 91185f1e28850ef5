"""The engine deployment: a thin Serve shell around one generation server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ray import serve

from serve_app.core.errors import WrongReplica
from serve_app.core.request import GenerationRequest
from serve_app.engine.config import EngineConfig
from serve_app.engine.generation_server import GenerationServer
from serve_app.engine.registry import build_engine
from serve_app.resilience.retention import RetentionConfig
from serve_app.router.serve.ray_private import max_ongoing_requests
from serve_app.telemetry.config import TelemetryConfig
from serve_app.telemetry.garbage import relax_garbage_collection
from serve_app.telemetry.heap import keep_heap_trimmed
from serve_app.telemetry.logging import configure_logging
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo
from serve_app.token_channel.handover import Claim, ClaimReply
from serve_app.token_channel.retained_events import LogPositions

logger = logging.getLogger(__name__)


class EngineDeployment:
    """One engine replica. Routers pin their calls to it; `target` is the replica that they mean."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it: the replica runs once the model is loaded
        self,
        model: str,
        engine: EngineConfig,
        max_concurrency: int,
        channel: ChannelConfig,
        telemetry: TelemetryConfig,
        retention: RetentionConfig,
        prepare_process: Callable[[], object],
    ) -> None:
        """`prepare_process` is called first, in the replica's own process."""
        # Serve's logger, not stderr: Serve redirects that one through a stack trace per line.
        configure_logging(telemetry, logging.getLogger("ray.serve"))
        prepare_process()
        context = serve.get_replica_context()
        self._engine_id: str = context.replica_id.unique_id
        # Serve's own bound counts short control calls too, so it must not be the smaller one; if it is, it is obeyed.
        capacity = min(max_concurrency, max_ongoing_requests(context))
        self._server = GenerationServer(
            self._engine_id, model, build_engine(engine), capacity, channel, retention=retention
        )
        await self._server.start()
        relax_garbage_collection()
        self._trimming = asyncio.create_task(keep_heap_trimmed())
        logger.info("engine %s serves %s", self._engine_id, model)

    async def generate(self, request: GenerationRequest, reply_to: ReplyTo, *, target: str) -> int:
        """Run a generation, whose events go to `reply_to`; how many events there were. Raises `Rejected`."""
        if target != self._engine_id:
            raise WrongReplica(f"The call was meant for {target}, this is {self._engine_id}.")
        return await self._server.generate(request, reply_to)

    async def read_logs(
        self, router_id: str, positions: LogPositions, *, target: str
    ) -> tuple[list[tuple[int, int]], bytes] | None:
        """What is retained of a router's generations from these positions on, as `RetainedEvents.packed`."""
        return self._server.read_logs(router_id, positions).packed() if self._is_meant(target) else None

    async def attach(self, endpoint: ChannelEndpoint, *, target: str) -> None:
        """Report to this router from now on."""
        if self._is_meant(target):
            self._server.attach(endpoint)

    async def keep_only(self, live: LiveStreams, *, target: str) -> None:
        """Abort generations that their router no longer wants."""
        if self._is_meant(target) and (aborted := self._server.keep_only(live)):
            logger.warning("aborted %d generations that router %s had given up", aborted, live.router_id)

    async def claim(self, claim: Claim, *, target: str) -> ClaimReply:
        """Give a kept stream up to another router, or tell it how the stream stands."""
        return self._server.claim(claim) if self._is_meant(target) else None

    async def wake(self, *, target: str) -> None:
        """Answer: whoever waits for a replica has one."""

    async def metrics_text(self, *, target: str) -> bytes | None:
        """The engine's own metrics in Prometheus text format; None where another replica is meant."""
        return self._server.metrics_text() if self._is_meant(target) else None

    async def check_health(self) -> None:
        """Called by Serve; raising restarts the replica."""
        await self._server.check_health()

    async def __del__(self) -> None:
        if hasattr(self, "_trimming"):
            self._trimming.cancel()
        if hasattr(self, "_server"):
            await self._server.close()

    def _is_meant(self, target: str) -> bool:
        """Whether the call has reached the replica that it is for: those for a replica that is gone come to any other.

        Nobody waits for what these calls do, so that they are not answered with an error: Serve would log its trace.
        """
        meant = target == self._engine_id
        if not meant:
            logger.debug("a call for engine %s, which is gone, came to %s", target, self._engine_id)
        return meant
