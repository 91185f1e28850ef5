from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.engine.simulated.config import FaultConfig, SimulatedEngineConfig


def test_defaults_are_valid_and_without_faults() -> None:
    config = SimulatedEngineConfig()
    assert config.kind == "simulated"
    assert config.faults == FaultConfig()
    assert not config.faults.requests
    assert not config.faults.timed


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({"kind": "vllm"}, "kind"),
        ({"steps_s": 1}, "steps_s"),
        ({"step_s": 0}, "step_s"),
        ({"decode_base_s": 0}, "decode_base_s"),
        ({"max_running": 0}, "max_running"),
        ({"cold_factor": 0.5}, "cold_factor"),
        ({"max_model_len": 1000, "kv_capacity_tokens": 999}, "kv_capacity_tokens"),
        ({"faults": {"error_probability": 1.1}}, "error_probability"),
        ({"faults": {"error_probability": 0.6, "stall_probability": 0.6}}, "error_probability"),
        ({"faults": {"requests": [{"kind": "stall", "request": 0}]}}, "request"),
        ({"faults": {"timed": [{"kind": "error", "after_s": 0}]}}, "kind"),
    ],
)
def test_wrong_value_is_refused_by_name(args: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        SimulatedEngineConfig.model_validate(args)


def test_nested_faults_are_read_from_plain_values() -> None:
    config = SimulatedEngineConfig.model_validate(
        {
            "faults": {
                "requests": [{"kind": "stall", "request": 2, "token": 3, "stall_s": 1.5}],
                "timed": [{"kind": "slow", "after_s": 1, "for_s": 2, "factor": 3}],
            }
        }
    )
    assert config.faults.requests[0].stall_s == 1.5
    assert config.faults.timed[0].factor == 3


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        SimulatedEngineConfig().max_running = 3  # type: ignore[misc]
