from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve._private.common import DeploymentID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_app_level_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve_app.autoscaling.policy import REPORTS_WITHIN_S, TokenAwareScaling
from serve_app.resilience.scaling import ModelLoad, ScalingPolicy
from serve_app.router.serve.autoscaling_stats import encode

ENGINE = DeploymentID("Engine-a", "app")
ROUTER = DeploymentID("Router", "app")
WAITING = ModelLoad(queued_requests=20, queue_tokens=20_000)
FULL = ModelLoad(engines=1, capacity=8, generations=8, queued_requests=5, queue_tokens=5_000)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Deployment:
    """One deployment as Serve's controller sees it."""

    key: DeploymentID
    running: int = 1
    target: int = 1
    minimum: int = 0
    ongoing: float = 0.0

    def context(self, raw_metrics: dict[str, Any] | None = None) -> AutoscalingContext:
        config = AutoscalingConfig(
            min_replicas=self.minimum, max_replicas=5, upscale_delay_s=0, downscale_delay_s=0, target_ongoing_requests=2
        )
        return AutoscalingContext(
            deployment_id=self.key,
            deployment_name=self.key.name,
            app_name="app",
            current_num_replicas=self.running,
            target_num_replicas=self.target,
            running_replicas=[],
            total_num_requests=self.ongoing,
            total_queued_requests=0.0,
            aggregated_metrics=None,
            raw_metrics=raw_metrics or {},
            capacity_adjusted_min_replicas=self.minimum,
            capacity_adjusted_max_replicas=5,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=1.7e9,
            config=config,
        )


class Controller:
    """Asks the policy as Serve's controller does, with Serve's own wrapper around it."""

    def __init__(self, **arguments: Any) -> None:
        self.clock = Clock()
        arguments = {"upscale_stabilization_s": 0.0, **arguments}
        self.policy = TokenAwareScaling(self.clock, **arguments)
        self.ask = _apply_app_level_autoscaling_config(self.policy)

    def decide(
        self, engine: Deployment, *reports: ModelLoad, router: Deployment | None = None, at: float | None = None
    ) -> dict[str, float]:
        """Target by deployment name; each report is one router's, made at its clock reading `at`."""
        router = router or Deployment(ROUTER, minimum=1)
        raw: dict[str, dict[str, list[TimeStampedValue]]] = {}
        for number, report in enumerate(reports):
            for name, value in encode("Engine-a", report).items():
                point = TimeStampedValue(at if at is not None else self.clock.now, value)
                raw.setdefault(name, {})[f"router-{number}"] = [TimeStampedValue(0.0, -1.0), point]
        decisions, _ = self.ask({ENGINE: engine.context(), ROUTER: router.context(raw)})
        return {key.name: value for key, value in decisions.items()}


def test_queue_of_routers_scales_the_engines_up() -> None:
    assert Controller().decide(Deployment(ENGINE), FULL)["Engine-a"] == 3


def test_queues_of_all_routers_count_together() -> None:
    one = ModelLoad(engines=1, capacity=8, generations=4, queued_requests=4, queue_tokens=3_000)
    assert Controller(max_step_replicas=4).decide(Deployment(ENGINE), one)["Engine-a"] == 2
    assert Controller(max_step_replicas=4).decide(Deployment(ENGINE), one, one, one, one)["Engine-a"] == 4


def test_sleeping_model_is_woken_by_the_queue_alone() -> None:
    assert Controller().decide(Deployment(ENGINE, 0, 0), WAITING)["Engine-a"] == 2


def test_sleeping_model_for_which_a_call_waits_gets_what_the_queue_needs_not_one_replica() -> None:
    assert Controller().decide(Deployment(ENGINE, 0, 0, ongoing=1.0), WAITING)["Engine-a"] == 2


def test_sleeping_model_for_which_a_call_waits_is_woken_before_any_router_reports() -> None:
    controller = Controller()
    controller.decide(Deployment(ENGINE), ModelLoad())
    assert controller.decide(Deployment(ENGINE, 0, 0, ongoing=1.0))["Engine-a"] == 1
    assert Controller().decide(Deployment(ENGINE, 0, 0, ongoing=1.0))["Engine-a"] == 1


def test_replica_for_which_a_call_waits_is_not_idle_whatever_routers_said_last() -> None:
    idle = ModelLoad(engines=1, capacity=8, idle_s=10_000.0)
    assert Controller().decide(Deployment(ENGINE, ongoing=1.0), idle)["Engine-a"] == 1
    assert Controller().decide(Deployment(ENGINE), idle)["Engine-a"] == 0


def test_other_deployments_follow_serves_default_policy() -> None:
    decisions = Controller().decide(Deployment(ENGINE), FULL, router=Deployment(ROUTER, ongoing=8.0))
    assert decisions["Router"] == 4


def test_nothing_is_changed_before_routers_have_reported() -> None:
    assert Controller().decide(Deployment(ENGINE, 3, 3, ongoing=50.0)) == {"Engine-a": 3, "Router": 1}


def test_application_whose_routers_cannot_report_follows_serves_default_policy() -> None:
    controller = Controller()
    controller.clock.now += REPORTS_WITHIN_S
    assert controller.decide(Deployment(ENGINE, ongoing=6.0))["Engine-a"] == 3


def test_reports_that_do_not_change_any_more_are_passed_over() -> None:
    controller = Controller(stale_after_s=30.0, downscale_stabilization_s=0.0, max_downscale_stabilization_s=0.0)
    idle = ModelLoad(engines=3, capacity=24)
    engine = Deployment(ENGINE, 3, 3)
    assert controller.decide(engine, FULL, at=50.0)["Engine-a"] > 3 - 1
    controller.clock.now += 100.0
    assert controller.decide(engine, idle, at=51.0)["Engine-a"] == 1
    controller.clock.now += 30.5
    assert controller.decide(engine, idle, at=51.0)["Engine-a"] == 3, "nothing is known: the target stays"
    assert controller.decide(engine, idle, at=52.0)["Engine-a"] == 1


def test_knobs_of_one_deployment_go_before_the_common_ones() -> None:
    controller = Controller(
        max_step_replicas=1, max_step_factor=1.0, deployments={"Engine-a": {"max_step_replicas": 3}}
    )
    assert controller.decide(Deployment(ENGINE, 0, 0), WAITING)["Engine-a"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_queue_wait": 3},
        {"deployments": {"Engine-a": {"target_utilization": 7}}},
        {"deployments": {"Engine-a": {"deployments": {}}}},
    ],
)
def test_wrong_knobs_are_logged_and_leave_serves_default_policy(
    arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    controller = Controller(**arguments)
    assert "wrong policy_kwargs" in caplog.text
    assert controller.decide(Deployment(ENGINE, ongoing=6.0), WAITING)["Engine-a"] == 3


def test_policy_that_fails_scales_nothing_and_never_raises(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ScalingPolicy, "decide", fail)
    controller = Controller()
    for _ in range(3):
        assert controller.decide(Deployment(ENGINE, 3, 3), FULL)["Engine-a"] == 3
    assert controller.decide(Deployment(ENGINE, 0, 0, ongoing=1.0), FULL)["Engine-a"] == 1, "it still wakes"
    assert len(caplog.records) == 1, "it says so once a minute"


def test_each_change_is_logged_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ray.serve")
    controller = Controller()
    for _ in range(3):
        controller.decide(Deployment(ENGINE), FULL)
    messages = [each.getMessage() for each in caplog.records]
    assert len(messages) == 1
    assert "Engine-a: from 1 to 3 replicas because of queue" in messages[0]


def test_serve_finds_the_policy_by_its_path_and_can_send_it_to_its_controller() -> None:
    found = AutoscalingPolicy(
        policy_function="serve_app.autoscaling.policy:TokenAwareScaling", policy_kwargs={"max_step_replicas": 1}
    )
    policy = cloudpickle.loads(found.get_serialized_policy_def())(**found.policy_kwargs)
    assert policy({}) == ({}, {})
