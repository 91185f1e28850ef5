"""`policy_kwargs` of our autoscaling policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from serve_app.resilience.scaling import ScalingConfig


class PolicyConfig(ScalingConfig):
    """The knobs for all engine deployments, and what differs for single ones."""

    deployments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further knobs by the engine deployment's name, for that deployment only."""
    stale_after_s: float = Field(default=30.0, gt=0)
    """Seconds after which a router that says nothing new is passed over. While all are, nothing is scaled. Above twice
    the Router's `metrics_interval_s`."""

    @model_validator(mode="after")
    def _knobs_of_each_deployment_are_right(self) -> Self:
        for name in self.deployments:
            self.of(name)
        return self

    def of(self, deployment: str) -> ScalingConfig:
        """The knobs of one engine deployment."""
        common = self.model_dump(include=set(ScalingConfig.model_fields))
        return ScalingConfig.model_validate({**common, **self.deployments.get(deployment, {})})


def load_policy_config(arguments: Mapping[str, Any]) -> PolicyConfig:
    """Validate `policy_kwargs`. Raises `ValueError` naming each key at fault."""
    try:
        return PolicyConfig.model_validate(dict(arguments))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc'])) or 'deployments'}: {each['msg']}" for each in error.errors()]
        raise ValueError("wrong policy_kwargs: " + "; ".join(lines)) from None
