"""Serve's hook: an autoscaling policy of the application, which Serve's controller asks ten times a second.

Statistics of the routers reach a policy of the application only, not one of a single deployment. Serve pickles this
class by value, so what it uses is imported from modules that the controller has: the package must be installed there.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext

from serve_app.autoscaling.config import PolicyConfig, load_policy_config
from serve_app.resilience.scaling import Fleet, ModelLoad, ScalingDecision, ScalingPolicy
from serve_app.router.serve.autoscaling_stats import combined, decode

REPORTS_WITHIN_S = 60.0
"""Routers have reported this long after the application started, or never will."""
_COMPLAIN_EVERY_S = 60.0

logger = logging.getLogger("ray.serve")

Contexts = Mapping[Any, AutoscalingContext]
"""What Serve knows of each deployment that has an `autoscaling_config`, by deployment id."""


class TokenAwareScaling:
    """Scales engine deployments by what routers report, and all others as Serve does by default.

    Never raises: in Serve 2.60 a policy that does stops the controller from updating any application.
    """

    def __init__(self, _clock: Callable[[], float] = time.monotonic, **arguments: Any) -> None:
        """`arguments` are the fields of `PolicyConfig`. When they are wrong Serve's default policy is followed."""
        self._clock = _clock
        self._started_at = _clock()
        self._config: PolicyConfig | None = None
        self._policies: dict[str, ScalingPolicy] = {}
        self._reports: dict[Any, _Report] = {}
        self._logged: dict[str, tuple[int, int]] = {}
        self._complained_at = -_COMPLAIN_EVERY_S
        try:
            self._config = load_policy_config(arguments)
        except ValueError as error:
            logger.error("autoscaling_policy: %s. Serve's default policy is used instead.", error)

    def __call__(self, contexts: Contexts) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
        """The wanted number of replicas by deployment id, and no state for Serve to keep."""
        try:
            return self._decide(contexts, self._clock()), {}
        except Exception:
            self._complain("the autoscaling policy failed; nothing is scaled", exc_info=True)
            return _as_they_are(contexts), {}

    def _decide(self, contexts: Contexts, now: float) -> dict[Any, float]:
        if self._config is None:
            return {key: _serves_own(context) for key, context in contexts.items()}
        loads = self._loads(contexts, now)
        for name in loads.keys() - self._policies.keys():
            self._policies[name] = ScalingPolicy(self._config.of(name))
        if not self._policies and now - self._started_at < REPORTS_WITHIN_S:
            return _as_they_are(contexts)
        if not self._policies:
            self._complain("no router reports its queue: give the Router deployment an autoscaling_config")
        return {
            key: self._engine(context, loads.get(context.deployment_name), now)
            if context.deployment_name in self._policies
            else _serves_own(context)
            for key, context in contexts.items()
        }

    def _engine(self, context: AutoscalingContext, load: ModelLoad | None, now: float) -> int:
        fleet = Fleet(
            running=context.current_num_replicas,
            target=context.target_num_replicas,
            minimum=context.capacity_adjusted_min_replicas,
            maximum=context.capacity_adjusted_max_replicas,
        )
        if load is not None and context.total_num_requests > 0:
            load = replace(load, idle_s=0.0)  # Serve may know of a waiting call before a router's report comes
        decision = self._policies[context.deployment_name].decide(load, fleet, now)
        self._log(context, decision, load)
        if fleet.running == 0:
            # While a call waits for a deployment without replicas, Serve does not ask the policy how many to start:
            # it starts one, or as many as this says.
            context.target_num_replicas = max(fleet.target, decision.target)
        return decision.target

    def _loads(self, contexts: Contexts, now: float) -> dict[str, ModelLoad]:
        """The present load by deployment name, over all routers that have lately reported."""
        assert self._config is not None
        known: dict[Any, _Report] = {}
        for context in contexts.values():
            for replica, (timestamp, stats) in _newest(context.raw_metrics or {}).items():
                before = self._reports.get(replica)
                if before is not None and before.timestamp == timestamp:
                    known[replica] = before
                elif loads := decode(stats):
                    known[replica] = _Report(timestamp, now, loads)
        self._reports = known
        lately = [each.loads for each in known.values() if now - each.received_at <= self._config.stale_after_s]
        names = {name for loads in lately for name in loads}
        found = {name: combined(loads[name] for loads in lately if name in loads) for name in names}
        return {name: load for name, load in found.items() if load is not None}

    def _log(self, context: AutoscalingContext, decision: ScalingDecision, load: ModelLoad | None) -> None:
        change = (context.target_num_replicas, decision.target)
        if decision.target == context.target_num_replicas or self._logged.get(context.deployment_name) == change:
            return
        self._logged[context.deployment_name] = change
        delay_s = context.config.upscale_delay_s if change[1] > change[0] > 0 else context.config.downscale_delay_s
        logger.info(
            "%s: from %d to %d replicas because of %s; demand %.2f, %s%s",
            context.deployment_name,
            *change,
            decision.reason,
            decision.demand,
            load,
            f"; Serve adds its own delay, up to {delay_s:g} s" if delay_s > 0 else "",
        )

    def _complain(self, message: str, exc_info: bool = False) -> None:
        now = self._clock()
        if now - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = now
            logger.error("autoscaling_policy: %s", message, exc_info=exc_info)


@dataclass(frozen=True, slots=True)
class _Report:
    """What one router said last."""

    timestamp: float
    """By the router's clock, which may differ from this process's: good only to tell reports apart."""
    received_at: float
    loads: dict[str, ModelLoad]


def _newest(raw_metrics: Mapping[str, Mapping[Any, Any]]) -> dict[Any, tuple[float, dict[str, float]]]:
    """Of each replica the latest statistics and their time."""
    found: dict[Any, tuple[float, dict[str, float]]] = {}
    for name, by_replica in raw_metrics.items():
        for replica, series in by_replica.items():
            if series:
                latest = series[-1]
                timestamp, stats = found.setdefault(replica, (latest.timestamp, {}))
                stats[name] = latest.value
                found[replica] = (max(timestamp, latest.timestamp), stats)
    return found


def _as_they_are(contexts: Contexts) -> dict[Any, float]:
    """No change; where a call waits for a deployment without replicas Serve starts one all the same."""
    return {key: context.target_num_replicas for key, context in contexts.items()}


def _serves_own(context: AutoscalingContext) -> float:
    desired, _ = replica_queue_length_autoscaling_policy(context)
    return float(desired)
