"""The stacks that we compare ourselves with: `vllm serve` alone, and Ray Serve LLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.stack import Stack
from tools import private_ray

MODEL = "tiny-smollm2"
ENGINE_OPTIONS: Mapping[str, Any] = {
    "load_format": "dummy",
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 256,
    "enforce_eager": True,
}
"""vLLM's options, the same for every stack: random weights of the tiny model, no compilation."""

ENGINE_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_DIRECT_STREAMING = {**private_ray.FAST_FLAGS, "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1"}


def vllm_serve(python: Path, model_dir: Path, engine: Mapping[str, Any] = ENGINE_OPTIONS) -> Stack:
    """vLLM's own API server, with nothing in front of it."""

    def command(port: int, _folder: Path) -> list[str]:
        options = []
        for name, value in engine.items():
            flag = "--" + name.replace("_", "-")
            options += [flag] if value is True else [flag, str(value)]
        module = ["-m", "vllm.entrypoints.cli.main", "serve", str(model_dir), "--served-model-name", MODEL]
        return [str(python), *module, "--host", "127.0.0.1", "--port", str(port), *options]

    return Stack("vllm serve", "alone", MODEL, command, lambda _folder: ENGINE_ENVIRONMENT)


def ray_serve_llm(python: Path, model_dir: Path, engine: Mapping[str, Any] = ENGINE_OPTIONS) -> list[Stack]:
    """Ray Serve LLM as it comes, with HAProxy and the throughput options, and with direct streaming besides."""
    config = {
        "applications": [
            {
                "name": "llm",
                "route_prefix": "/",
                "import_path": "ray.serve.llm:build_openai_app",
                "args": {
                    "llm_configs": [
                        {
                            "model_loading_config": {"model_id": MODEL, "model_source": str(model_dir)},
                            "accelerator_config": {"kind": "cpu"},
                            "engine_kwargs": dict(engine),
                            "deployment_config": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
                        }
                    ]
                },
            }
        ]
    }
    return [
        ray_stack("ray serve llm", flags, python, config, variables)
        for flags, variables in (
            ("defaults", {}),
            ("haproxy+throughput", private_ray.FAST_FLAGS),
            ("haproxy+throughput+direct-streaming", _DIRECT_STREAMING),
        )
    ]


def ray_stack(
    name: str, flags: str, python: Path, config: Mapping[str, Any], variables: Mapping[str, str], model: str = MODEL
) -> Stack:
    """A Serve application in a private Ray that starts with `variables` in its environment."""
    return Stack(
        name,
        flags,
        model,
        lambda port, folder: private_ray.serve_command(python, config, port, folder),
        lambda folder: {**ENGINE_ENVIRONMENT, **private_ray.environment(folder), **variables},
        private_ray.why_deploying_failed,
    )
