"""Metrics of one router, and a short way to read them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from serve_app.core.request import Priority
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.reasons import QueueOutcome, WasteReason
from serve_app.telemetry.stream_metrics import StreamMetrics

MODEL = "smol"


class Counted:
    """Metrics of one router with a short way to read them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ServeMetrics(self.registry, [MODEL, "other"])

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"serve_app_{name}", {"model": MODEL, **labels})

    def stream(self, now: float = 0.0, choices: int = 1, priority: Priority = Priority.DEFAULT) -> StreamMetrics:
        return self.metrics.offered(MODEL, now, choices, priority)

    def ends_of_waits(self, band: str) -> dict[QueueOutcome, float]:
        """The counts that are not 0."""
        counts = {one: self("queue_outcomes_total", band=band, outcome=one) for one in QueueOutcome}
        return {one: count for one, count in counts.items() if count}

    def wasted_tokens(self) -> dict[WasteReason, float]:
        """The counts that are not 0."""
        counts = {one: self("wasted_tokens_total", reason=one) for one in WasteReason}
        return {one: count for one, count in counts.items() if count}
