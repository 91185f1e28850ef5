"""`/metrics`: one text for all routers and engines, whichever router is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from ray.serve.handle import DeploymentHandle

from serve_app.router.serve import live_replicas
from serve_app.router.serve.broadcast import ask_all
from serve_app.router.serve.pinned_calls import PinnedCalls
from serve_app.telemetry.exposition import ReplicaScrape, merge
from serve_app.telemetry.metrics import ServeMetrics

logger = logging.getLogger(__name__)


class MetricsPage:
    """Collects the metrics of every replica. Safe to call concurrently."""

    def __init__(
        self,
        routers: DeploymentHandle,
        engines: Mapping[str, PinnedCalls],
        own: Callable[[], ReplicaScrape],
        metrics: ServeMetrics,
        timeout_s: float,
    ) -> None:
        """`engines` has each engine deployment by name, `own` this router's scrape. `metrics` counts replicas that
        could not be collected; each is waited for at most `timeout_s` seconds."""
        self._routers = routers
        self._engines = dict(engines)
        self._own = own
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def text(self) -> bytes:
        """All metrics in Prometheus text format, with the labels `deployment` and `replica`."""
        engines = [
            self._scrape_engine(deployment, replica)
            for deployment in self._engines
            for replica in sorted(live_replicas.listed(deployment))
        ]
        routers, *others = await asyncio.gather(self._scrape_routers(), *engines)
        merged = merge([*routers, *(scrape for found in others for scrape in found)])
        for left_out in merged.left_out:
            self._metrics.scrape_left_out(left_out.deployment)
        return merged.text

    async def _scrape_routers(self) -> list[ReplicaScrape]:
        own = self._own()
        try:
            answers = await ask_all(self._routers, "scrape", timeout_s=self._timeout_s)
        except Exception as error:
            logger.warning("collecting the metrics of the other routers failed: %s", error)
            return [own]
        for failed in answers:
            if isinstance(failed, BaseException):
                logger.warning("collecting the metrics of a router failed: %s", failed or "no answer")
        others = [each for each in answers if isinstance(each, ReplicaScrape) and each.replica != own.replica]
        return sorted([own, *others], key=lambda scrape: scrape.replica)

    async def _scrape_engine(self, deployment: str, replica: str) -> list[ReplicaScrape]:
        calls = self._engines[deployment]
        try:
            text: bytes | None = await asyncio.wait_for(calls.call("metrics_text", replica), self._timeout_s)
        except Exception as error:
            logger.warning("collecting the metrics of %s %s failed: %s", deployment, replica, error)
            text = None
        return [ReplicaScrape(deployment, replica, text)]
