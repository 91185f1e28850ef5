"""What must hold for our policy in each workload: the table of gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.overload.measure import Measured, percentile
from benchmarks.overload.policies import NO_CONTROL, ORACLE, OURS
from benchmarks.overload.policy import Objective

OBJECTIVE = Objective()


@dataclass(frozen=True)
class Check:
    """One figure and its bound."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure is within its bound; not a number never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Results:
    """Pooled measurements of one workload."""

    by_policy: Mapping[str, Measured]
    reference: Measured | None = None
    """Our policy in the workload's reference scenario."""

    @property
    def ours(self) -> Measured:
        """Our policy."""
        return self.by_policy[OURS]

    @property
    def oracle(self) -> Measured:
        """The oracle."""
        return self.by_policy[ORACLE]

    def goodput_ratio(self, policy: str) -> float | None:
        """Goodput of `policy` as a share of the oracle's; None when the oracle did not run."""
        oracle = self.by_policy.get(ORACLE)
        if oracle is None or not oracle.good_tokens:
            return None
        return self.by_policy[policy].good_tokens / oracle.good_tokens


def _source_document(results: Results) -> list[Check]:
    ours = results.ours
    return [
        Check("success", ours.success, 0.998, at_least=True),
        Check("calls per input", ours.computed / ours.asks, 1.15),
        Check("p99 latency from arrival, s", percentile(ours.latency_s, 99), 4.0),
    ]


def _cold_replica(results: Results) -> list[Check]:
    ours = results.ours
    return [
        Check("success", ours.success, 0.999, at_least=True),
        Check("load / oracle's load", ours.load_ratio / results.oracle.load_ratio, 1.02),
        Check(
            "p99 TTFT / that without control",
            percentile(ours.ttft_s, 99) / percentile(results.by_policy[NO_CONTROL].ttft_s, 99),
            0.5,
        ),
    ]


def _step(results: Results) -> list[Check]:
    ours = results.ours
    return [
        Check("goodput / oracle's", ours.good_tokens / results.oracle.good_tokens, 0.95, at_least=True),
        Check("p99 TTFT 10 s after the step, s", percentile(ours.ttft_s, 99), OBJECTIVE.ttft_s),
        Check("slowest refusal, s", max(ours.refusal_s, default=0.0), 0.05),
    ]


def _retry_storm(results: Results) -> list[Check]:
    ratio = results.ours.fresh_good_tokens / results.oracle.fresh_good_tokens
    return [Check("goodput on fresh requests after 30 s / oracle's", ratio, 0.95, at_least=True)]


def _slow_replica(results: Results) -> list[Check]:
    ours, healthy = results.ours, _reference(results)
    return [
        Check("share of the slow replica", ours.watched_share, 0.005),
        Check("p99 TTFT / all healthy", percentile(ours.ttft_s, 99) / percentile(healthy.ttft_s, 99), 1.5),
        Check("p99 TPOT / all healthy", percentile(ours.tpot_s, 99) / percentile(healthy.tpot_s, 99), 1.5),
    ]


def _replica_killed(results: Results) -> list[Check]:
    ours = results.ours
    return [
        Check("streams begun that finish", ours.begun_completed / ours.begun, 1.0, at_least=True),
        Check("tokens lost", ours.lost_tokens, 0),
        Check("tokens repeated", ours.repeated_tokens, 0),
    ]


def _noisy_neighbour(results: Results) -> list[Check]:
    ours, fair = results.ours, _reference(results)
    return [
        Check("victim's p99 TTFT / fair", percentile(ours.ttft_s, 99) / percentile(fair.ttft_s, 99), 1.2),
        Check("victims refused", ours.refused, 0),
    ]


def _scale_from_zero(results: Results) -> list[Check]:
    ours = results.ours
    return [Check("success", ours.success, 1.0, at_least=True), Check("refused", ours.refused, 0)]


GATES: Mapping[str, Callable[[Results], list[Check]]] = {
    "source_document": _source_document,
    "cold_replica": _cold_replica,
    "step": _step,
    "retry_storm": _retry_storm,
    "slow_replica": _slow_replica,
    "replica_killed": _replica_killed,
    "noisy_neighbour": _noisy_neighbour,
    "scale_from_zero": _scale_from_zero,
}
"""By workload; one that is missing here has no gate."""

NEEDED = {NO_CONTROL, ORACLE, OURS}
"""Policies without which some gate cannot be judged."""


def _reference(results: Results) -> Measured:
    assert results.reference is not None
    return results.reference
