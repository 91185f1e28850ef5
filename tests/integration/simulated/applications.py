"""Applications on the simulated engine, each shaped for one kind of question, all in one Serve config."""

from __future__ import annotations

from typing import Any

from tests.integration.edge.applications import EDGE
from tests.support.applications import application, model

STREAM_BUFFER_BYTES = 65_536
ALPHA_CONCURRENCY = 8

PAIR = application(
    "pair",
    [
        model("alpha", concurrency=ALPHA_CONCURRENCY, step_s=0.02),
        model("beta", concurrency=64, step_s=0.01, max_model_len=65_536),
    ],
    replicas={"Router": 2, "Engine-alpha": 2},
    router={"stream_buffer_bytes": STREAM_BUFFER_BYTES},
    telemetry={"ray_metrics_interval_s": 1.0},
)
"""Two models, two routers, two engine replicas of the first."""

NARROW = application(
    "narrow",
    [model("narrow", concurrency=2, step_s=0.02)],
    router={"admission": {"bands": {"default": {"requests": 2}}, "when_full": "refuse"}},
)
"""Runs two, holds two, refuses the rest."""

PATIENT = application(
    "patient",
    [model("patient", concurrency=8, step_s=0.02)],
    deployments={"Engine-patient": {"max_ongoing_requests": 2}},
    router={"admission": {"bands": {"default": {"requests": 1}}, "when_full": "wait"}},
)
"""Callers stand in line. Serve's own bound on the engine deployment is the smaller one."""


def _autoscaled(**options: float) -> dict[str, Any]:
    """Serve options of a deployment that scales between no replica and one, quickly."""
    return {
        "autoscaling_config": {
            "min_replicas": 0,
            "max_replicas": 1,
            "target_ongoing_requests": 4,
            "metrics_interval_s": 0.5,
            "look_back_period_s": 1.0,
            "upscale_delay_s": 0.5,
            "downscale_delay_s": 2.0,
            **options,
        }
    }


GATED = application(
    "gated",
    [model("gated", concurrency=2, step_s=0.02), model("comatose", concurrency=2, step_s=0.02, load_s=3600.0)],
    deployments={"Router": {"max_ongoing_requests": 4}, "Engine-comatose": _autoscaled(upscale_delay_s=3600.0)},
    router={"admission": {"bands": {"default": {"requests": 2}}}, "no_engine_timeout_s": 2.0},
)
"""As many requests reach the router as it can run and hold. Its second model never comes up."""

SLEEPER = application(
    "sleeper",
    [model("sleeper", concurrency=8, step_s=0.01, load_s=0.5)],
    deployments={"Engine-sleeper": _autoscaled()},
)
"""No replica while nobody asks."""

_REPORTS_OFTEN = {"metrics_interval_s": 0.5, "look_back_period_s": 1.0}
_SCALED = {"min_replicas": 0, "max_replicas": 3, "upscale_delay_s": 0.0, "downscale_delay_s": 0.0}

SCALING: dict[str, Any] = {
    **application(
        "scaling",
        [model("scaled", concurrency=4, step_s=0.02, load_s=1.0)],
        deployments={
            "Router": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 1, **_REPORTS_OFTEN}},
            "Engine-scaled": {"autoscaling_config": {**_SCALED, **_REPORTS_OFTEN}},
        },
    ),
    "autoscaling_policy": {
        "policy_function": "serve_app.autoscaling.policy:TokenAwareScaling",
        "policy_kwargs": {
            "target_queue_wait_s": 2.0,
            "min_tokens_per_s": 200.0,
            "upscale_stabilization_s": 0.5,
            "downscale_stabilization_s": 3.0,
            "max_downscale_stabilization_s": 3.0,
            "idle_before_zero_s": 4.0,
        },
    },
}
"""Scales by waiting tokens, quickly: a replica does 200 tokens a second."""

STEADY = model("steady", concurrency=64, step_s=0.1)
"""Slow: Serve's own proxy takes about a millisecond of a core for each token of fifty streams."""

FAILOVER = application(
    "failover",
    [STEADY],
    replicas={"Router": 2, "Engine-steady": 3},
    router={"failover": {"drain_handover_s": 2.0}},
)
"""Loses replicas. Each has places for all streams of a test; one that is removed hands its streams over soon."""

SIMULATED: dict[str, Any] = {"applications": [EDGE, PAIR, NARROW, PATIENT, GATED, SLEEPER, SCALING, FAILOVER]}
"""All of these, and the one of `tests/integration/edge`: one deployment serves both folders."""
