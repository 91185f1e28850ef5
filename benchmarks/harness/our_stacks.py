"""This project's own application as a stack: as plain `serve run` gives it, and with Serve's fast ingress turned on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from benchmarks.harness import bare_serve, peers
from benchmarks.harness.stack import Stack
from tools import haproxy_wrapper, private_ray

NAME = "serve_app"
FAST = "haproxy+throughput"
PLAIN = "plain"
_CONFIGS = Path(__file__).parents[2] / "configs"
_CONCURRENCY = 256
_CALLS = 2 * _CONCURRENCY + 32
"""Generations and the short control calls beside them, as configs/simulated.yaml has it."""


def with_vllm(
    model_dir: Path,
    engine: Mapping[str, Any] = peers.ENGINE_OPTIONS,
    max_concurrency: int = _CONCURRENCY,
    router: Mapping[str, Any] | None = None,
) -> list[Stack]:
    """configs/app.yaml with the tiny model, on the same engine options as the peers; `router` replaces sections of
    `args.router`."""
    config = yaml.safe_load((_CONFIGS / "app.yaml").read_text())
    application = config["applications"][0]
    model = application["args"]["models"][0]
    model["id"] = peers.MODEL
    model["max_concurrency"] = max_concurrency
    model["engine"] = {"kind": "vllm", "model": str(model_dir), **engine}
    application["args"]["router"].update(router or {})
    for deployment in application["deployments"]:
        if deployment["name"] == model["deployment"]:
            deployment["max_ongoing_requests"] = _CALLS
    return _both(config, peers.MODEL)


def simulated(
    engine: Mapping[str, Any],
    max_concurrency: int = _CONCURRENCY,
    router: Mapping[str, Any] | None = None,
    others: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    grpc_port: int | None = None,
    replicas: Mapping[str, int] = MappingProxyType({}),
) -> list[Stack]:
    """configs/simulated.yaml with these options of the simulated engine; `router` is `args.router`, and `others` has
    the engine options of further models by their ids. gRPC is served at `grpc_port`; `replicas` by deployment, else 1.
    """
    config = yaml.safe_load((_CONFIGS / "simulated.yaml").read_text())
    application = config["applications"][0]
    model = application["args"]["models"][0]
    model["engine"] = {"kind": "simulated", **engine}
    model["max_concurrency"] = max_concurrency
    application["args"]["router"] = dict(router or {})
    for deployment in application["deployments"]:
        deployment["num_replicas"] = replicas.get(deployment["name"], 1)
        if deployment["name"] == model["deployment"]:
            deployment["max_ongoing_requests"] = 2 * max_concurrency + 32
    application["args"]["models"] += [
        {"id": name, "engine": {"kind": "simulated", **options}} for name, options in others.items()
    ]
    return _both(config, model["id"], grpc_port)


def bare(streams: int, step_s: float, holds_calls: bool) -> Stack:
    """Serve with nothing on it, behind the same fast ingress: `streams` of them, that say something every `step_s`
    seconds and hold an engine call each if so wished. See `bare_serve`."""
    config = yaml.safe_load((_CONFIGS / "simulated.yaml").read_text())
    application = {
        "name": NAME,
        "import_path": f"{bare_serve.__name__}:build_app",
        "route_prefix": "/",
        "args": {"streams": streams, "step_s": step_s, "holds_calls": holds_calls},
    }
    stack, _ = _both({**config, "applications": [application]}, bare_serve.MODEL)
    return replace(stack, name="Serve with a call" if holds_calls else "Serve alone")


def _both(config: Mapping[str, Any], model: str, grpc_port: int | None = None) -> list[Stack]:
    # Most benchmarks do not speak gRPC, and two stacks on one machine would want the same port for it.
    grpc_options = config["grpc_options"]
    config = {key: value for key, value in config.items() if key != "grpc_options"}
    if grpc_port is not None:
        config["grpc_options"] = {**grpc_options, "port": grpc_port}
    python = Path(sys.executable)
    fast = {**private_ray.FAST_FLAGS, haproxy_wrapper.VARIABLE: str(haproxy_wrapper.write_wrapper())}
    return [
        peers.ray_stack(NAME, flags, python, config, variables, model)
        for flags, variables in ((FAST, fast), (PLAIN, {}))
    ]
