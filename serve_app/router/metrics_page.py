"""`/metrics`: one text for all routers and engines, whichever router is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from serve_app.router import live_replicas
from serve_app.router.pinned_calls import PinnedCalls
from serve_app.telemetry.exposition import ReplicaScrape, merge
from serve_app.telemetry.metrics import ServeMetrics


class MetricsPage:
    """Collects the metrics of every replica of `deployments` (by name). Safe to call concurrently."""

    def __init__(self, deployments: Mapping[str, PinnedCalls], metrics: ServeMetrics, timeout_s: float) -> None:
        """`metrics` counts replicas that could not be collected; each is waited for at most `timeout_s` seconds."""
        self._deployments = dict(deployments)
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def text(self) -> bytes:
        """All metrics in Prometheus text format, with the labels `deployment` and `replica`."""
        scrapes = await asyncio.gather(*(self._scrape(*replica) for replica in self._replicas()))
        merged = merge(scrapes)
        for left_out in merged.left_out:
            self._metrics.scrape_left_out(left_out.deployment)
        return merged.text

    def _replicas(self) -> Iterator[tuple[str, str]]:
        for deployment in self._deployments:
            for replica in sorted(live_replicas.listed(deployment)):
                yield deployment, replica

    async def _scrape(self, deployment: str, replica: str) -> ReplicaScrape:
        calls = self._deployments[deployment]
        try:
            text: bytes | None = await asyncio.wait_for(calls.call("own_metrics_text", replica), self._timeout_s)
        except Exception:
            text = None
        return ReplicaScrape(deployment, replica, text)
