"""Serve configs for integration tests: the shipped one, and small applications on the simulated engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]

Config = dict[str, Any]


def shipped_config(name: str) -> Config:
    """`configs/<name>`, unchanged."""
    document: Config = yaml.safe_load((ROOT / "configs" / name).read_text())
    return document


def model(model_id: str, *, concurrency: int, step_s: float, **engine: Any) -> Config:
    """A simulated model whose every stream gets `1 / step_s` tokens a second."""
    simulated = {"kind": "simulated", "step_s": step_s, "max_running": concurrency, **engine}
    return {
        "id": model_id,
        "deployment": f"Engine-{model_id}",
        "max_concurrency": concurrency,
        "engine": simulated,
    }


def application(
    name: str,
    models: list[Config],
    *,
    replicas: dict[str, int] | None = None,
    deployments: dict[str, Config] | None = None,
    **sections: Config,
) -> Config:
    """An application at `/name`. `replicas` is by deployment name, 1 where it is not given; `deployments` has further
    Serve options; `sections` are those of `args`, as `router=`."""
    replicas, deployments = replicas or {}, deployments or {}
    return {
        "name": name,
        "import_path": "serve_app.app:build_app",
        "route_prefix": f"/{name}",
        "args": {"models": models, "channel": {"host": "127.0.0.1"}, **sections},
        "deployments": [
            _deployment(each, replicas.get(each, 1), deployments.get(each, {}))
            for each in ("Router", *(model["deployment"] for model in models))
        ],
    }


def _deployment(name: str, replicas: int, options: Config) -> Config:
    # Serve refuses a fixed number of replicas beside an autoscaling_config.
    fixed = {} if "autoscaling_config" in options else {"num_replicas": replicas}
    return {"name": name, "ray_actor_options": {"num_cpus": 0.1}, **fixed, **options}
