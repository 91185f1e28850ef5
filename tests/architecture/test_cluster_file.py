"""cluster.yaml against Ray's own schema, and against the config file that it is meant for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return document


def test_cluster_file_satisfies_rays_schema(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, json.loads(SCHEMA.read_text()))


def test_schema_rejects_a_cluster_file_with_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_wrkers": 1}, json.loads(SCHEMA.read_text()))


def test_head_and_workers_are_among_the_node_types(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    workers = set(types) - {cluster["head_node_type"]}
    assert cluster["head_node_type"] in types
    assert workers
    assert sum(types[name]["max_workers"] for name in workers) <= cluster["max_workers"]


def test_idle_nodes_outlive_the_scale_down_delay(cluster: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / "configs" / "gpu.yaml").read_text())
    policy = config["applications"][0]["autoscaling_policy"]
    assert policy["policy_kwargs"]["downscale_stabilization_s"] < 60 * cluster["idle_timeout_minutes"]


def test_every_node_runs_the_same_ray_as_its_environment(cluster: dict[str, Any]) -> None:
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("~/serve_app/.venv/bin/ray" in line or "cd ~/serve_app" in line for line in starts)
