"""What a router replica tells Serve's autoscaler of each model: the numbers of its own metrics, condensed.

The metrics are read rather than the router's insides: they are the documented view of its state, and cost about a
millisecond once a second.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields

from prometheus_client import CollectorRegistry

from serve_app.resilience.scaling import ModelLoad

_RATE_WINDOW_S = 5.0
"""Seconds over which tokens per second are counted: long enough to see several engine steps and short requests."""
_EXPECTATION_WEIGHT = 10
"""Streams after whose end the model's own mean weighs as much as what was expected of it."""
_SEPARATOR = "/"
_FIELDS = frozenset(each.name for each in fields(ModelLoad))


def encode(deployment: str, load: ModelLoad) -> dict[str, float]:
    """`load` as flat statistics, as Serve takes them."""
    return {f"{deployment}{_SEPARATOR}{name}": value for name, value in asdict(load).items()}


def decode(stats: Mapping[str, float]) -> dict[str, ModelLoad]:
    """What `encode` wrote, by deployment name. Other statistics, and fields of other versions, are passed over."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for key, value in stats.items():
        deployment, _, name = key.rpartition(_SEPARATOR)
        if deployment and name in _FIELDS:
            found[deployment][name] = value
    return {deployment: ModelLoad(**values) for deployment, values in found.items()}


def combined(loads: Iterable[ModelLoad]) -> ModelLoad | None:
    """The load of one model over all routers, from what each says; None when none says anything.

    Each router has a queue and streams of its own. Of the engines all of them know the whole, but for one that has
    just started or lost a channel.
    """
    known = list(loads)
    if not known:
        return None
    return ModelLoad(
        queued_requests=sum(load.queued_requests for load in known),
        queue_tokens=sum(load.queue_tokens for load in known),
        queue_waiting_s=max(load.queue_waiting_s for load in known),
        request_tokens=sum(load.request_tokens for load in known) / len(known),
        engines=max(load.engines for load in known),
        capacity=max(load.capacity for load in known),
        generations=max(load.generations for load in known),
        engine_waiting=max(load.engine_waiting for load in known),
        kv_cache_usage=max(load.kv_cache_usage for load in known),
        tokens_per_s=sum(load.tokens_per_s for load in known),
        idle_s=min(load.idle_s for load in known),
    )


@dataclass(slots=True)
class _Model:
    """What is remembered of one model between reports."""

    busy_at: float
    waiting_since: float | None = None
    done: deque[tuple[float, float]] = field(default_factory=deque)
    """Clock readings, and tokens done until then."""


class AutoscalingStats:
    """Makes the statistics of one router replica. Used from one thread."""

    def __init__(
        self, registry: CollectorRegistry, deployments: Mapping[str, str], expected_output_tokens: float, now: float
    ) -> None:
        """`deployments` has the engine deployment's name of each model; `expected_output_tokens` holds until requests
        of a model have ended; `now` is the clock reading in seconds."""
        self._registry = registry
        self._deployments = dict(deployments)
        self._expected_output = expected_output_tokens
        self._models = {model: _Model(now) for model in deployments}

    def report(self, now: float) -> dict[str, float]:
        """The statistics at clock reading `now` (seconds); metrics must have been published just before."""
        totals = self._totals()
        stats: dict[str, float] = {}
        for model, deployment in self._deployments.items():
            stats |= encode(deployment, self._load(self._models[model], totals[model], now))
        return stats

    def _totals(self) -> dict[str, dict[str, float]]:
        """Every sample, summed over all labels but the model."""
        totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for family in self._registry.collect():
            for sample in family.samples:
                if (model := sample.labels.get("model")) is not None:
                    totals[model][sample.name.removeprefix("serve_app_")] += sample.value
        return totals

    def _load(self, model: _Model, total: Mapping[str, float], now: float) -> ModelLoad:
        done = total["prompt_tokens_total"] + total["output_tokens_total"]
        queued = total["queue_depth"]
        ended = total["stream_duration_seconds_count"]
        weight = _EXPECTATION_WEIGHT + ended
        expected = _EXPECTATION_WEIGHT * self._expected_output
        busy = queued > 0 or total["engine_generations"] > 0 or (model.done and model.done[-1][1] != done)
        if busy:
            model.busy_at = now
        if queued == 0:
            model.waiting_since = None
        elif model.waiting_since is None:
            model.waiting_since = now
        return ModelLoad(
            queued_requests=queued,
            queue_tokens=total["queue_tokens"] + queued * (expected + total["output_tokens_total"]) / weight,
            queue_waiting_s=now - model.waiting_since if model.waiting_since is not None else 0.0,
            request_tokens=(expected + done) / weight,
            engines=total["engine_ready"],
            capacity=total["engine_capacity"],
            generations=total["engine_generations"],
            engine_waiting=total["engine_waiting"],
            kv_cache_usage=total["engine_kv_cache_usage"],
            tokens_per_s=_rate(model.done, done, now),
            idle_s=now - model.busy_at,
        )


def _rate(done: deque[tuple[float, float]], tokens: float, now: float) -> float:
    done.append((now, tokens))
    while len(done) > 2 and done[1][0] <= now - _RATE_WINDOW_S:
        done.popleft()
    elapsed_s = now - done[0][0]
    return (tokens - done[0][1]) / elapsed_s if elapsed_s > 0 else 0.0
