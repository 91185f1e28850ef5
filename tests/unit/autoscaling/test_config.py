from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.autoscaling.config import load_policy_config
from serve_app.autoscaling.policy import TokenAwareScaling

ROOT = Path(__file__).parents[3]


def scaled_applications() -> list[Any]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").glob("*.yaml"))]
    return [each for document in documents for each in document["applications"] if "autoscaling_policy" in each]


def test_knobs_of_a_deployment_are_the_common_ones_but_for_its_own() -> None:
    config = load_policy_config(
        {"target_utilization": 0.5, "max_step_replicas": 4, "deployments": {"Engine-a": {"max_step_replicas": 1}}}
    )
    assert (config.of("Engine-a").target_utilization, config.of("Engine-a").max_step_replicas) == (0.5, 1)
    assert config.of("Engine-b").max_step_replicas == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_wait_s": 3}, "target_wait_s: Extra inputs are not permitted"),
        ({"target_utilization": 0}, "target_utilization: Input should be greater than 0"),
        ({"deployments": {"Engine-a": {"tolerance": 7}}}, "tolerance"),
    ],
)
def test_wrong_knobs_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_policy_config(arguments)


@pytest.mark.parametrize("application", scaled_applications(), ids=lambda each: each["deployments"][1]["name"])
def test_shipped_configs_that_use_the_policy_give_it_what_it_needs(application: Any) -> None:
    policy = application["autoscaling_policy"]
    assert policy["policy_function"] == f"{TokenAwareScaling.__module__}:{TokenAwareScaling.__name__}"
    load_policy_config(policy["policy_kwargs"])
    deployments = {each["name"]: each["autoscaling_config"] for each in application["deployments"]}
    assert deployments["Router"]["metrics_interval_s"] <= 1, "the router's reports are ten seconds old by default"
    for name, options in deployments.items():
        if name != "Router":
            assert options["upscale_delay_s"] == options["downscale_delay_s"] == 0, "Serve would add them"


def test_some_shipped_config_uses_the_policy() -> None:
    assert len(scaled_applications()) >= 2
