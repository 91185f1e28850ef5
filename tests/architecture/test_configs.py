"""Every file in configs/ is an ordinary Serve config whose arguments this project accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import gRPCOptions
from ray.serve.schema import ServeDeploySchema

from serve_app.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LOCAL = ["app.yaml", "app-gpu.yaml", "simulated.yaml"]


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    return document


def deployments(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in document["applications"][0]["deployments"]}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param.name)


def test_config_is_a_serve_config(document: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(document)
    assert [application.import_path for application in schema.applications] == ["serve_app.app:build_app"]


def test_arguments_are_accepted(document: dict[str, Any]) -> None:
    assert load_config(document["applications"][0]["args"]).models


def test_grpc_is_served(document: dict[str, Any]) -> None:
    options = gRPCOptions(**document["grpc_options"])
    assert options.port == 9000 and len(options.grpc_servicer_func_callable) == 1


def test_named_deployments_are_those_that_the_application_makes(document: dict[str, Any]) -> None:
    config = load_config(document["applications"][0]["args"])
    assert set(deployments(document)) == {"Router", *(model.deployment_name for model in config.models)}


def test_engine_deployments_take_more_calls_than_generations(document: dict[str, Any]) -> None:
    config = load_config(document["applications"][0]["args"])
    for model in config.models:
        assert deployments(document)[model.deployment_name]["max_ongoing_requests"] > model.max_concurrency


@pytest.mark.parametrize("name", LOCAL)
def test_local_configs_listen_on_loopback_only(name: str) -> None:
    document = read(name)
    assert document["http_options"]["host"] == "127.0.0.1"
    assert document["applications"][0]["args"]["channel"]["host"] == "127.0.0.1"
    assert document["grpc_options"]["grpc_servicer_functions"] == ["serve_app.ingress.grpc.server:add_local_services"]


@pytest.mark.parametrize("name", ["app.yaml", "simulated.yaml"])
def test_configs_without_gpu_fit_two_cores(name: str) -> None:
    actors = [item["ray_actor_options"] for item in deployments(read(name)).values()]
    assert sum(options["num_cpus"] for options in actors) <= 2
    assert not any(options.get("num_gpus") for options in actors)


def test_gpus_per_replica_are_those_of_tensor_parallelism() -> None:
    document = read("gpu.yaml")
    model = document["applications"][0]["args"]["models"][0]
    engine = deployments(document)[model["deployment"]]
    assert engine["ray_actor_options"]["num_gpus"] == model["engine"]["tensor_parallel_size"]
    assert engine["autoscaling_config"]["target_ongoing_requests"] < model["max_concurrency"]
