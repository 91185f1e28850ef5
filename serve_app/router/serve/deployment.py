"""The router deployment: a thin Serve shell that wires the request lifecycle, the token channel and the ingress."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from prometheus_client import CollectorRegistry
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.core.departure import Departure
from serve_app.core.errors import ServeAppError
from serve_app.core.interfaces import KeptState, ModelCard, RateLimitState, ResumedStream, Router, TokenStream
from serve_app.core.request import GenerationRequest, Priority
from serve_app.core.served_models import ServedModels
from serve_app.router.config import RouterConfig
from serve_app.router.kept_answers import KeptAnswers
from serve_app.router.lifecycle import RouterLifecycle
from serve_app.router.serve import live_replicas
from serve_app.router.serve.autoscaling_stats import AutoscalingStats
from serve_app.router.serve.departure_watch import watch_departure
from serve_app.router.serve.engine_caller import ServeEngineCaller
from serve_app.router.serve.grpc_methods import BuildGrpc, GrpcMethods
from serve_app.router.serve.handle_methods import BuildHandleApi, HandleMethods
from serve_app.router.serve.holders import ServeHolders
from serve_app.router.serve.metrics_page import MetricsPage
from serve_app.router.serve.pinned_calls import PinnedCalls
from serve_app.router.serve.proxy_start import prepare
from serve_app.router.serve.shared_secret import shared_secret
from serve_app.telemetry.channel_metrics import ChannelCounts
from serve_app.telemetry.config import TelemetryConfig
from serve_app.telemetry.exposition import ReplicaScrape
from serve_app.telemetry.garbage import relax_garbage_collection
from serve_app.telemetry.heap import keep_heap_trimmed
from serve_app.telemetry.logging import RequestLog, configure_logging
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.ray_bridge import RayBridge, RayUtilSink
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.handover import Claim, ClaimReply
from serve_app.token_channel.receiver import ChannelReceiver

ROUTER_DEPLOYMENT = "Router"

BuildApi = Callable[[Callable[[], Router]], Any]
"""Makes the ASGI application from a getter of the router that it serves."""

logger = logging.getLogger(__name__)


@serve.ingress()
class RouterDeployment(GrpcMethods, HandleMethods):
    """One router replica. Implements `core.interfaces.Router` for the ingress that it hosts."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        build_api: BuildApi,
        build_grpc: BuildGrpc,
        build_handle_api: BuildHandleApi,
        router: RouterConfig,
        channel: ChannelConfig,
        telemetry: TelemetryConfig,
        served: ServedModels,
        engines: Mapping[str, DeploymentHandle],
    ) -> None:
        """`engines` has the handle of each engine deployment, by its name."""
        # Serve's logger, not stderr: Serve redirects that one through a stack trace per line.
        configure_logging(telemetry, logging.getLogger("ray.serve"))
        prepare()
        self._build_api = build_api
        self._departure = Departure()
        self._grpc = build_grpc(self)
        self._handle_api = build_handle_api(self)
        context = serve.get_replica_context()
        self._deployment, self._router_id = context.deployment, context.replica_id.unique_id
        registry = CollectorRegistry()
        self._metrics = ServeMetrics(registry, served.pools)
        # A pool's load cannot be divided among several deployments yet: `AppConfig` allows one.
        deployments = {pool: deployment for pool, (deployment,) in served.pools.items()}
        self._autoscaling = AutoscalingStats(registry, deployments, router.expected_output_tokens, time.monotonic())
        calls = {deployment: PinnedCalls(handle) for deployment, handle in engines.items()}
        log = RequestLog(telemetry)
        self._lifecycle = RouterLifecycle(
            served,
            int(time.time()),
            router,
            ServeEngineCaller(calls),
            self._metrics,
            log,
        )
        host = ray.util.get_node_ip_address() if channel.host == "auto" else channel.host
        self._receiver = ChannelReceiver(
            self._router_id, self._lifecycle, channel, host, on_loss=self._lifecycle.on_loss
        )
        self._signing_key = shared_secret(context.app_name)
        routers = serve.get_deployment_handle(context.deployment, context.app_name)
        self._kept = KeptAnswers(
            self._router_id,
            self._lifecycle,
            ServeHolders(routers, calls, router.retention.claim_timeout_s),
            router.retention,
            router.stream_buffer_bytes,
            self._metrics,
            log,
        )
        self._page = MetricsPage(
            routers,
            calls,
            self._own_scrape,
            self._metrics,
            telemetry.scrape_timeout_s,
        )
        await self._lifecycle.start(await self._receiver.start())
        self._kept.start()
        for pool, deployment in deployments.items():
            self._follow(deployment, pool)
        for pinned in calls.values():
            pinned.connect()
        self._watch = asyncio.create_task(watch_departure(routers, self._router_id, self._departure))
        relax_garbage_collection()
        self._trimming = asyncio.create_task(keep_heap_trimmed())
        tags = {"deployment": context.deployment, "replica": self._router_id}
        self._mirror = asyncio.create_task(
            self._mirror_to_ray(RayBridge(registry, RayUtilSink(), tags), telemetry.ray_metrics_interval_s)
        )

    def __serve_build_asgi_app__(self) -> Any:
        return self._build_api(lambda: self)

    # --- core.interfaces.Router

    def open(self, request: GenerationRequest) -> TokenStream:
        """See `core.interfaces.Router.open`."""
        return self._lifecycle.open(request) if request.retention is None else self._kept.open(request)

    async def resume(self, key: str, tenant: str, from_token: int = 0) -> ResumedStream:
        """See `core.interfaces.Router.resume`."""
        return await self._kept.resume(key, tenant, from_token)

    async def look_up(self, key: str, tenant: str) -> KeptState:
        """See `core.interfaces.Router.look_up`."""
        return await self._kept.look_up(key, tenant)

    async def cancel(self, key: str, tenant: str, *, forget: bool = False) -> KeptState:
        """See `core.interfaces.Router.cancel`."""
        return await self._kept.cancel(key, tenant, forget=forget)

    @property
    def signing_key(self) -> bytes:
        """See `core.interfaces.Router.signing_key`."""
        return self._signing_key

    @property
    def departure(self) -> Departure:
        """See `core.interfaces.Router.departure`."""
        return self._departure

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        """See `core.interfaces.Router.turned_away`."""
        self._lifecycle.turned_away(request_id, tenant, error)

    def models(self) -> Sequence[ModelCard]:
        """See `core.interfaces.Router.models`."""
        return self._lifecycle.models()

    def can_admit(self) -> bool:
        """See `core.interfaces.Router.can_admit`."""
        return self._lifecycle.can_admit()

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        """See `core.interfaces.Router.rate_limits`."""
        return self._lifecycle.rate_limits(model, priority)

    async def metrics_text(self) -> bytes:
        """See `core.interfaces.Router.metrics_text`."""
        return await self._page.text()

    # --- what other routers and Serve call

    async def claim(self, claim: Claim) -> ClaimReply:
        """Give a kept stream up to another router, or tell it how the stream stands."""
        return self._kept.answer(claim)

    async def scrape(self) -> ReplicaScrape:
        """This replica's metrics alone, for another router's `/metrics`."""
        return self._own_scrape()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serve_app.autoscaling` decides by; called by Serve where the deployment has an `autoscaling_config`."""
        self._publish_metrics()
        return self._autoscaling.report(time.monotonic())

    async def __del__(self) -> None:
        if hasattr(self, "_mirror"):
            self._mirror.cancel()
            self._trimming.cancel()
            self._watch.cancel()
            await self._kept.close()
            await self._lifecycle.close()
            await self._receiver.close()

    def _own_scrape(self) -> ReplicaScrape:
        self._publish_metrics()
        return ReplicaScrape(self._deployment, self._router_id, self._metrics.text())

    def _publish_metrics(self) -> None:
        self._lifecycle.publish_metrics()
        self._kept.publish_metrics()
        self._metrics.publish_tasks(len(asyncio.all_tasks()))
        received, lifecycle = self._receiver.stats, self._lifecycle
        self._metrics.publish_channel(
            ChannelCounts(received.messages, received.refused_messages, lifecycle.gaps, lifecycle.silences)
        )

    def _follow(self, deployment: str, pool: str) -> None:
        """Let the lifecycle know of the deployment's replicas, from whichever thread Serve tells it."""
        loop, lifecycle = asyncio.get_running_loop(), self._lifecycle
        live_replicas.subscribe(
            deployment,
            lambda replicas: _from_thread(loop, lifecycle.replicas_listed, pool, replicas, deployment),
            lambda replica: _from_thread(loop, lifecycle.replica_died, replica),
        )

    async def _mirror_to_ray(self, bridge: RayBridge, interval_s: float) -> None:
        while interval_s > 0:
            await asyncio.sleep(interval_s)
            try:
                self._publish_metrics()
                bridge.copy()
            except Exception:
                logger.exception("copying metrics to Ray failed")


def _from_thread(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)
