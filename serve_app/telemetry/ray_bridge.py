"""Copies a registry's metrics into Ray's metrics agent, and so to its Prometheus endpoint and dashboard.

Ray's agent shows only what goes through `ray.util.metrics`; nothing hooks a prometheus_client registry into it. Names
gain Ray's prefix: `ray_serve_app_requests_total`, `ray_serve_app_time_to_first_token_seconds_bucket`. Counters are
passed on as differences, gauges as values. A histogram becomes the series `_bucket{le}`, `_sum` and `_count`, each a
gauge set to the exact total: Ray's Histogram takes single observations only, and its agent replaces them by bucket
midpoints, which falsifies the sum. `rate` and `histogram_quantile` work on these series as on any histogram.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

Labels = tuple[tuple[str, str], ...]


class RaySink(Protocol):
    """What the bridge needs of Ray: named counters and gauges with tags."""

    def add(self, name: str, documentation: str, tags: Mapping[str, str], amount: float) -> None:
        """Add `amount`, above 0, to a counter."""

    def set(self, name: str, documentation: str, tags: Mapping[str, str], value: float) -> None:
        """Set a gauge."""


class RayBridge:
    """Copies `registry` into `sink` whenever `copy` is called; each sample gains `tags`, as deployment and replica.

    Use from one thread. A sample is passed on only when it changed; a gauge that left the registry is set to 0 once,
    since Ray would show its last value as long as the process lives.
    """

    def __init__(self, registry: CollectorRegistry, sink: RaySink, tags: Mapping[str, str]) -> None:
        self._registry = registry
        self._sink = sink
        self._tags = dict(tags)
        self._counted: dict[tuple[str, Labels], float] = {}
        self._shown: dict[tuple[str, Labels], tuple[str, float]] = {}

    def copy(self) -> None:
        """Pass on what changed since the last call. Costs about 1 ms for 300 samples."""
        seen = set()
        for family, sample in _samples(self._registry):
            labels = tuple(sorted(sample.labels.items()))
            key = (sample.name, labels)
            if family.type == "counter":
                self._count(key, family.documentation, sample.value)
            else:
                seen.add(key)
                self._show(key, family.documentation, sample.value)
        for key in self._shown.keys() - seen:
            documentation, _ = self._shown.pop(key)
            self._sink.set(key[0], documentation, self._tagged(key[1]), 0.0)

    def _count(self, key: tuple[str, Labels], documentation: str, total: float) -> None:
        gained = total - self._counted.get(key, 0.0)
        if gained > 0:
            self._sink.add(key[0], documentation, self._tagged(key[1]), gained)
        self._counted[key] = total

    def _show(self, key: tuple[str, Labels], documentation: str, value: float) -> None:
        if key not in self._shown or self._shown[key][1] != value:
            self._shown[key] = (documentation, value)
            self._sink.set(key[0], documentation, self._tagged(key[1]), value)

    def _tagged(self, labels: Labels) -> dict[str, str]:
        return {**self._tags, **dict(labels)}


def _samples(registry: CollectorRegistry) -> Iterator[tuple[Metric, Sample]]:
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield family, sample


class RayUtilSink:
    """The real sink, on `ray.util.metrics`; works inside a Ray worker, without effect elsewhere."""

    def __init__(self) -> None:
        from ray.util import metrics  # Ray is loaded only where the bridge is used.

        self._ray = metrics
        self._metrics: dict[str, metrics.Metric] = {}

    def add(self, name: str, documentation: str, tags: Mapping[str, str], amount: float) -> None:
        """Add to a `ray.util.metrics.Counter`, made at first use."""
        if name not in self._metrics:
            self._metrics[name] = self._ray.Counter(name, documentation, tuple(tags))
        self._metrics[name].inc(amount, dict(tags))

    def set(self, name: str, documentation: str, tags: Mapping[str, str], value: float) -> None:
        """Set a `ray.util.metrics.Gauge`, made at first use."""
        if name not in self._metrics:
            self._metrics[name] = self._ray.Gauge(name, documentation, tuple(tags))
        self._metrics[name].set(value, dict(tags))
