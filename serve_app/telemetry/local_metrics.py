"""A counter and a histogram cheap enough to be updated for every streamed token.

`prometheus_client` takes a lock and a linear bucket search per observation (1-2 µs). These cells are plain numbers that
their owner updates in place; the text format is built only when a scrape asks. Update them from one thread only;
a scrape from another thread sees each number whole, but numbers of slightly different instants.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class CounterCell:
    """One counted number; add to `value` directly, never subtract."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class HistogramCell:
    """Observations of one label set: `counts[i]` of them lie in bucket `i`, `total` is their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation in the bucket with the least upper bound that is not below `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class LocalCounter(Collector):
    """A counter family of `CounterCell`s, one per label set; exposed as `<name>_total`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._cells: dict[tuple[str, ...], CounterCell] = {}
        registry.register(self)

    def cell(self, *label_values: str) -> CounterCell:
        """The cell of these label values, made at first use: ask once and keep it."""
        return self._cells.setdefault(label_values, CounterCell())

    def collect(self) -> Iterable[Metric]:
        """The family as it stands."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for label_values, cell in self._cells.items():
            family.add_metric(label_values, cell.value)
        yield family


class LocalHistogram(Collector):
    """A histogram family of `HistogramCell`s, one per label set. `bounds` are upper bounds, rising, without +Inf."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._bounds = tuple(bounds)
        self._bound_labels = [*map(floatToGoString, self._bounds), "+Inf"]
        self._cells: dict[tuple[str, ...], HistogramCell] = {}
        registry.register(self)

    def cell(self, *label_values: str) -> HistogramCell:
        """The cell of these label values, made at first use: ask once and keep it."""
        return self._cells.setdefault(label_values, HistogramCell(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """The family as it stands."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for label_values, cell in self._cells.items():
            cumulative = zip(self._bound_labels, map(float, accumulate(cell.counts)), strict=True)
            family.add_metric(label_values, list(cumulative), cell.total)
        yield family
