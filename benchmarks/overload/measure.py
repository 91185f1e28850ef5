"""What is counted in a run, and how runs are pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from benchmarks.overload.call_engine import CallEngine
from benchmarks.overload.cluster import Cluster
from benchmarks.overload.jobs import Ask, Request
from benchmarks.overload.policy import Objective
from benchmarks.overload.step_engine import StepEngine


@dataclass(frozen=True)
class Scope:
    """Which requests a workload's latencies, goodput and success are about: by time of arrival and tenant."""

    from_s: float = 0.0
    to_s: float = float("inf")
    latency_from_s: float = 0.0
    """Requests sent before are left out of latencies, refusals and shares, when the policy may need time to learn."""
    tenant: str | None = None

    def has(self, ask: Ask) -> bool:
        """Whether this ask counts."""
        return self.from_s <= ask.asked_at < self.to_s and (self.tenant is None or ask.tenant == self.tenant)


@dataclass
class Measured:
    """Sums and samples of one run, or of several pooled with `add`. Seconds and tokens."""

    runs: int = 0
    asks: int = 0
    completed: int = 0
    offered_tokens: float = 0.0
    """Output tokens that were asked for."""
    good_tokens: float = 0.0
    """Output tokens of requests, sent within the scope, that were answered completely and within both objectives."""
    fresh_good_tokens: float = 0.0
    """The same, of first requests only: answers to retries do not count."""
    ttft_s: list[float] = field(default_factory=list)
    """Time to first token of completed requests, from the arrival of that request."""
    tpot_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    """From a user's first request to the end of the complete answer."""
    refused: int = 0
    """Requests that were refused before their first token (429 or 503)."""
    refusal_s: list[float] = field(default_factory=list)
    """Time from such a request to its refusal."""
    computed: float = 0.0
    """Work of all engines in the whole run: tokens, or calls."""
    accepted_work: float = 0.0
    """Work of the accepted inputs: of each once, however often it was computed."""
    lost_tokens: int = 0
    repeated_tokens: int = 0
    begun: int = 0
    """Streams whose client has received a token."""
    begun_completed: int = 0
    dispatches: int = 0
    watched_dispatches: int = 0
    """Those to the replica that the workload watches."""
    preemptions: int = 0
    timeline: dict[int, list[float]] = field(default_factory=dict)
    """By second of arrival of the user's wish: tokens asked for, tokens of fresh requests answered well."""

    def add(self, other: Measured) -> None:
        """Pool another run, or several, with this one."""
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, dict):
                for second, values in others.items():
                    mine[second] = [a + b for a, b in zip(mine.get(second, [0.0] * len(values)), values, strict=True)]
            else:
                setattr(self, each.name, mine + others)

    @property
    def success(self) -> float:
        """Share of users who got a complete answer, in the end."""
        return self.completed / self.asks if self.asks else 1.0

    @property
    def load_ratio(self) -> float:
        """Work computed per work of the accepted inputs."""
        return self.computed / self.accepted_work if self.accepted_work else 0.0

    @property
    def watched_share(self) -> float:
        """Share of the watched replica in all dispatches."""
        return self.watched_dispatches / self.dispatches if self.dispatches else 0.0


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile; `percent` is 0..100. Not a number for no values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(1, -(-len(ordered) * int(percent * 100) // 10_000)) - 1]


def measure(asks: Iterable[Ask], cluster: Cluster, scope: Scope, objective: Objective, watched: str | None) -> Measured:
    """Everything about one run that is over."""
    found = Measured(runs=1, computed=cluster.computed)
    calls = any(isinstance(replica.engine, CallEngine) for replica in cluster.replicas.values())
    for ask in asks:
        if ask.started:
            found.accepted_work += 1 if calls else ask.prompt_tokens + ask.output_tokens
        _measure_timeline(found, ask, objective)
        if scope.tenant is None or ask.tenant == scope.tenant:
            sent = (request for request in ask.requests if scope.from_s <= request.sent_at < scope.to_s)
            found.good_tokens += sum(ask.output_tokens for request in sent if is_good(request, objective))
        if scope.has(ask):
            _measure_ask(found, ask, scope, objective)
    for replica in cluster.replicas.values():
        if isinstance(replica.engine, StepEngine):
            found.preemptions += replica.engine.preemptions
    taken = [engine_id for at, engine_id in cluster.dispatches if scope.latency_from_s <= at < scope.to_s]
    found.dispatches = len(taken)
    found.watched_dispatches = taken.count(watched) if watched is not None else 0
    return found


def _measure_ask(found: Measured, ask: Ask, scope: Scope, objective: Objective) -> None:
    found.asks += 1
    found.offered_tokens += ask.output_tokens
    if ask.completed_at is not None:
        found.completed += 1
        found.latency_s.append(ask.completed_at - ask.asked_at)
    for number, request in enumerate(ask.requests):
        found.lost_tokens += request.lost
        found.repeated_tokens += request.repeated
        if request.first_token_at is not None:
            found.begun += 1
            found.begun_completed += request.completed
        if is_good(request, objective):
            found.fresh_good_tokens += ask.output_tokens if number == 0 else 0
        turned_away = request.status in (429, 503) and request.first_token_at is None
        found.refused += turned_away
        if request.sent_at < scope.latency_from_s or request.ended_at is None:
            continue
        if request.completed:
            assert request.first_token_at is not None
            found.ttft_s.append(request.first_token_at - request.sent_at)
            if (tpot := tpot_s(request)) is not None:
                found.tpot_s.append(tpot)
        elif turned_away:
            found.refusal_s.append(request.ended_at - request.sent_at)


def _measure_timeline(found: Measured, ask: Ask, objective: Objective) -> None:
    if ask.requests:
        bin_ = found.timeline.setdefault(int(ask.asked_at), [0.0, 0.0])
        bin_[0] += ask.output_tokens
        bin_[1] += ask.output_tokens * is_good(ask.requests[0], objective)


def tpot_s(request: Request) -> float | None:
    """Mean seconds per token after the first; None for a single one."""
    if request.first_token_at is None or request.ended_at is None or request.received < 2:
        return None
    return (request.ended_at - request.first_token_at) / (request.received - 1)


def is_good(request: Request, objective: Objective) -> bool:
    """Whether it was answered completely and within both objectives."""
    if not request.completed or request.first_token_at is None:
        return False
    tpot = tpot_s(request)
    return request.first_token_at - request.sent_at <= objective.ttft_s and (tpot is None or tpot <= objective.tpot_s)
