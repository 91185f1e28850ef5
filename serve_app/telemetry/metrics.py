"""Every metric of the project, declared once: those per engine replica in `engine_gauges`, those of the token channel
in `channel_metrics`, all others here.

Names follow Prometheus' conventions (base units, `_total`) and have the prefix `serve_app_`; `docs/metrics.md`
explains each. Label values come from enums, from the configured models and from replica ids, never from a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve_app.core.engine_status import EngineStatus
from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import Priority
from serve_app.telemetry.channel_metrics import ChannelCounts, ReceiverCollector
from serve_app.telemetry.engine_gauges import EngineGauges, ReplicaState
from serve_app.telemetry.local_metrics import CounterCell, LocalCounter, LocalHistogram
from serve_app.telemetry.reasons import (
    REPEATING,
    HedgeOutcome,
    QueueOutcome,
    RefusalReason,
    RequeueReason,
    ResumedFrom,
    WasteReason,
)
from serve_app.telemetry.stream_metrics import BandMetrics, ModelMetrics, StreamMetrics

_Reason = TypeVar("_Reason", bound=StrEnum)

UNKNOWN_MODEL = "unknown"
"""Label of requests that name no configured model."""

# From an idle GPU's first token (5 ms) to a long wait in the queue.
FIRST_TOKEN_BOUNDS_S = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0, 160.0,
)  # fmt: skip
# 2 ms is a small model on a large GPU; 50 ms is reading speed; above 1 s is a stall.
TOKEN_BOUNDS_S = (
    0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
DURATION_BOUNDS_S = (
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
)  # fmt: skip
WAIT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0,
)  # fmt: skip


class ServeMetrics:
    """The metrics of one router replica, in `registry`. Use from one thread; a scrape may come from another.

    `models` are the served model ids: the only values that the label `model` takes, with `UNKNOWN_MODEL`.
    """

    def __init__(self, registry: CollectorRegistry, models: Iterable[str]) -> None:
        self._registry = registry
        by_model = ("model",)

        def histogram(name: str, documentation: str, bounds: tuple[float, ...]) -> Histogram:
            return Histogram(f"serve_app_{name}", documentation, by_model, buckets=bounds, registry=registry)

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"serve_app_{name}", documentation, labels, registry=registry)

        def local_counter(name: str, documentation: str, *labels: str) -> LocalCounter:
            return LocalCounter(f"serve_app_{name}", documentation, ("model", *labels), registry)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(f"serve_app_{name}", documentation, labels, registry=registry)

        self._ttft = histogram(
            "time_to_first_token_seconds", "TTFT: from the offer of a request to its first token.", FIRST_TOKEN_BOUNDS_S
        )
        self._tpot = histogram(
            "time_per_output_token_seconds",
            "TPOT: a stream's mean time per output token after the first, counted when it ends.",
            TOKEN_BOUNDS_S,
        )
        self._itl = LocalHistogram(
            "serve_app_inter_token_latency_seconds",
            "ITL: time between successive deliveries of tokens of one stream.",
            by_model,
            TOKEN_BOUNDS_S,
            registry,
        )
        self._duration = histogram(
            "stream_duration_seconds",
            "From the offer to the end of a stream that delivered at least one token.",
            DURATION_BOUNDS_S,
        )
        self._queue_wait = Histogram(
            "serve_app_queue_wait_seconds",
            "From the offer to the dispatch that an engine accepted, or to giving up.",
            ("model", "band"),
            buckets=WAIT_BOUNDS_S,
            registry=registry,
        )
        self._requests = counter("requests", "Requests that ended, by outcome.", "model", "outcome")
        self._drops = counter(
            "connection_drops",
            "Streams whose client went away (cancelled) or was cut off for not reading (client_too_slow).",
            "model",
            "reason",
        )
        self._requeues = counter(
            "dispatch_requeues",
            "Dispatches that came to nothing; the request waited again or went on with its other attempt.",
            "model",
            "reason",
        )
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens, as engines counted them.", "model")
        self._cached_tokens = counter("cached_prompt_tokens", "Prompt tokens found in a prefix cache.", "model")
        self._output_tokens = local_counter("output_tokens", "Output tokens delivered to streams.")
        self._queue_outcomes = local_counter(
            "queue_outcomes", "Ends of requests' first wait for an engine, of any length.", "band", "outcome"
        )
        self._refusals = local_counter("refusals", "Requests that were not admitted.", "reason")
        self._retries = local_counter(
            "retries", "Dispatches that repeat a request without output, by what ended the one before.", "reason"
        )
        self._failovers = local_counter(
            "failovers", "Dispatches that go on with a stream's output, by what ended the one before.", "reason"
        )
        self._hedges = local_counter("hedges", "Second, concurrent attempts of requests.", "outcome")
        self._wasted_tokens = local_counter(
            "wasted_tokens",
            "Tokens computed a second time, and output of streams that nobody read to the end.",
            "reason",
        )
        self._concurrent = gauge("concurrent_streams", "Streams dispatched to an engine and not settled.", "model")
        self._queue_depth = gauge("queue_depth", "Requests that wait for an engine.", "model", "band")
        self._queue_tokens = gauge("queue_tokens", "Estimated prompt tokens of the waiting requests.", "model", "band")
        self._budget_left = gauge(
            "retry_budget_left_tokens", "Tokens that retries and failovers may still take.", "model"
        )
        self._budget_used = gauge("retry_budget_used_tokens", "Tokens of retries and failovers in flight.", "model")
        resumed = counter("resumed_streams", "Retained streams that got another reader, by where they were.", "place")
        self._resumed = {place: resumed.labels(place) for place in ResumedFrom}
        self._retained_streams = gauge("retained_streams", "Streams that can be resumed at this router replica.")
        self._retained_bytes = gauge("retained_bytes", "Estimated memory of these streams' events.")
        self._tasks = gauge("event_loop_tasks", "asyncio tasks of this router replica.")
        self._left_out = counter(
            "scrapes_left_out", "Replicas that `/metrics` left out: no answer, or none that parses.", "deployment"
        )

        self._engines = EngineGauges(registry)
        self._channel = ReceiverCollector(registry)

        self._models = {model: self._resolve(model) for model in models}
        for outcome in RequestOutcome:
            self._requests.labels(UNKNOWN_MODEL, outcome)

    def offered(self, model: str, now: float, choices: int = 1, priority: Priority = Priority.DEFAULT) -> StreamMetrics:
        """A request for `choices` outputs of a configured model was offered; follow it with what this returns."""
        return StreamMetrics(self._models[model], now, choices, priority)

    def not_offered(self, outcome: RequestOutcome, model: str | None = None) -> None:
        """Count a request that ended before it could be offered, as one that did not parse."""
        if model in self._models:
            self._models[model].outcomes[outcome].inc()
        else:
            self._requests.labels(UNKNOWN_MODEL, outcome).inc()

    def set_queue(self, model: str, requests: int, tokens: int, band: Priority = Priority.DEFAULT) -> None:
        """Show the present length of one band of a model's waiting queue."""
        metrics = self._models[model].bands[band]
        metrics.depth.set(requests)
        metrics.tokens.set(tokens)

    def set_retry_budget(self, model: str, left_tokens: float, used_tokens: int) -> None:
        """Show how much work of a model is repeated at present, and how much more may be."""
        metrics = self._models[model]
        metrics.retry_budget_left.set(left_tokens)
        metrics.retry_budget_used.set(used_tokens)

    def resumed(self, place: ResumedFrom) -> None:
        """Count another reader of a retained stream."""
        self._resumed[place].inc()

    def publish_retained(self, streams: int, size: int) -> None:
        """Show how many retained streams there are, and their size in bytes."""
        self._retained_streams.set(streams)
        self._retained_bytes.set(size)

    def publish_engines(self, statuses: Iterable[EngineStatus]) -> None:
        """Show these heartbeats, and only these."""
        self._engines.statuses = tuple(statuses)

    def publish_replicas(self, replicas: Mapping[str, Sequence[ReplicaState]]) -> None:
        """Show what the router makes of each model's engine replicas, and only of these."""
        self._engines.judged = dict(replicas)

    def publish_channel(self, counts: ChannelCounts) -> None:
        """Show the token channel's own totals."""
        self._channel.counts = counts

    def publish_tasks(self, tasks: int) -> None:
        """Show how many asyncio tasks the replica has."""
        self._tasks.set(tasks)

    def scrape_left_out(self, deployment: str) -> None:
        """Count a replica whose metrics could not be collected."""
        self._left_out.labels(deployment).inc()

    def text(self) -> bytes:
        """This replica's metrics in Prometheus text format."""
        return generate_latest(self._registry)

    def _resolve(self, model: str) -> ModelMetrics:
        return ModelMetrics(
            ttft_s=self._ttft.labels(model),
            tpot_s=self._tpot.labels(model),
            itl_s=self._itl.cell(model),
            duration_s=self._duration.labels(model),
            concurrent=self._concurrent.labels(model),
            prompt_tokens=self._prompt_tokens.labels(model),
            cached_prompt_tokens=self._cached_tokens.labels(model),
            output_tokens=self._output_tokens.cell(model),
            outcomes={outcome: self._requests.labels(model, outcome) for outcome in RequestOutcome},
            drops={
                outcome: self._drops.labels(model, outcome)
                for outcome in (RequestOutcome.CANCELLED, RequestOutcome.CLIENT_TOO_SLOW)
            },
            requeues={reason: self._requeues.labels(model, reason) for reason in RequeueReason},
            retry_budget_left=self._budget_left.labels(model),
            retry_budget_used=self._budget_used.labels(model),
            retries=_cells(self._retries, REPEATING, model),
            failovers=_cells(self._failovers, REPEATING, model),
            hedges=_cells(self._hedges, HedgeOutcome, model),
            refusals=_cells(self._refusals, RefusalReason, model),
            wasted_tokens=_cells(self._wasted_tokens, WasteReason, model),
            bands={band: self._resolve_band(model, band) for band in Priority},
        )

    def _resolve_band(self, model: str, band: Priority) -> BandMetrics:
        return BandMetrics(
            depth=self._queue_depth.labels(model, band),
            tokens=self._queue_tokens.labels(model, band),
            wait_s=self._queue_wait.labels(model, band),
            outcomes=_cells(self._queue_outcomes, QueueOutcome, model, band.value),
        )


def _cells(counter: LocalCounter, reasons: Iterable[_Reason], *labels: str) -> dict[_Reason, CounterCell]:
    return {reason: counter.cell(*labels, reason.value) for reason in reasons}
