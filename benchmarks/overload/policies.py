"""All policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.overload.baselines import Baseline, Gradient2Baseline, LimitedBaseline, RetryingBaseline
from benchmarks.overload.call_engine import CallProfile
from benchmarks.overload.oracle import Oracle
from benchmarks.overload.policy import Policy, Surroundings
from benchmarks.overload.serve_app_policy import ServeAppPolicy
from benchmarks.overload.step_engine import EngineProfile
from serve_app.router.config import RouterConfig

OURS = "serve_app"
ORACLE = "oracle"
NO_CONTROL = "no_control"

_RAY_DEFAULT_MAX_ONGOING = 5
_NO_BOUND = 10**9
"""Ray Serve's `max_queued_requests: -1`."""
_QUEUE = 100


def build_policy(name: str, given: Surroundings, engine: EngineProfile | CallProfile, router: dict[str, Any]) -> Policy:
    """The policy of that name; KeyError for unknown names. `router` holds settings of ours."""
    parallel = engine.parallel if isinstance(engine, CallProfile) else engine.max_running
    made: dict[str, Callable[[], Policy]] = {
        NO_CONTROL: lambda: Baseline(given),
        "ray_serve_default": lambda: LimitedBaseline(given, _RAY_DEFAULT_MAX_ONGOING, _NO_BOUND),
        "ray_serve_tuned": lambda: LimitedBaseline(given, parallel, _QUEUE),
        "fixed_concurrency": lambda: LimitedBaseline(given, max(1, parallel * 3 // 4), 0),
        "retries": lambda: RetryingBaseline(given),
        "gradient2": lambda: Gradient2Baseline(given),
        ORACLE: lambda: Oracle(given),
        OURS: lambda: ServeAppPolicy(given, RouterConfig.model_validate(router)),
    }
    return made[name]()


POLICIES = (
    NO_CONTROL, "ray_serve_default", "ray_serve_tuned", "fixed_concurrency", "retries", "gradient2", ORACLE, OURS,
)  # fmt: skip
