"""Loads a model into vLLM: its environment, its engine arguments, and what is hooked into it."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.core.errors import EngineFailed
from serve_app.engine.vllm.config import VllmEngineConfig
from serve_app.engine.vllm.load_meter import LoadMeter
from serve_app.engine.vllm.token_sizes import longest_token_bytes

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_KV_CACHE_GIB = 1.0

_ENV = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anybody
}
_CPU_ENV = {
    # Threads that wait for work sleep: spinning ones take the cores from router and replica.
    "OMP_WAIT_POLICY": "PASSIVE",
    # One process for scheduler and model, as with one GPU: a second one costs 0.6 GB, and a core that spins.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready."""

    llm: AsyncLLM
    tokenizer: Any
    counts_prior_output: bool
    """Penalties can count output tokens that are part of the prompt."""
    max_token_bytes: int
    """See `Engine.max_token_bytes`."""


async def load(config: VllmEngineConfig, meter: LoadMeter) -> LoadedModel:
    """The engine, ready. Imports and builds in two steps: vLLM keeps frames of those who import it."""
    on_cpu = await asyncio.to_thread(_import_vllm, config)
    return await asyncio.to_thread(_build, _engine_arguments(config, on_cpu), meter)


def _import_vllm(config: VllmEngineConfig) -> bool:
    """Set the environment and import vLLM; whether it runs on the CPU."""
    os.environ.update(_ENV | config.env)
    if Path(config.model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from vllm.platforms import current_platform

    on_cpu: bool = current_platform.is_cpu()
    if on_cpu:
        threads = config.cpu_threads or max(1, len(os.sched_getaffinity(0)) - 1)
        os.environ.update(_CPU_ENV | {"OMP_NUM_THREADS": str(threads)} | config.env)

    import vllm.v1.engine.async_llm  # noqa: F401  # for what importing does

    return on_cpu


def _build(arguments: dict[str, Any], meter: LoadMeter) -> LoadedModel:
    """Load the model."""
    import vllm.envs
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    allowed = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in sorted(arguments.keys() - allowed):
        close = difflib.get_close_matches(name, allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise EngineFailed(f"engine_args: this vLLM has no engine argument {name}{hint}")
    engine_args = AsyncEngineArgs(**arguments)
    vllm_config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    processor = prior_penalties(vllm_config)
    if processor is not None:
        vllm_config.model_config.logits_processors = [*(engine_args.logits_processors or ()), processor]
    llm = AsyncLLM.from_vllm_config(
        vllm_config,
        stat_loggers=[_stat_logger_factory(meter)],
        enable_log_requests=engine_args.enable_log_requests,
        disable_log_stats=engine_args.disable_log_stats,
    )
    # vLLM would look settings up in the environment for each output.
    if cache := getattr(vllm.envs, "enable_envs_cache", None):
        cache()
    tokenizer = llm.get_tokenizer()
    return LoadedModel(llm, tokenizer, processor is not None, longest_token_bytes(tokenizer))


def _engine_arguments(config: VllmEngineConfig, on_cpu: bool) -> dict[str, Any]:
    """Keyword arguments of vLLM's `AsyncEngineArgs`; those left to vLLM are absent."""
    kv_cache_gib = config.kv_cache_gib or (CPU_KV_CACHE_GIB if on_cpu else None)
    folder = Path(config.model)
    arguments = {
        "model": config.model,
        "served_model_name": folder.name if folder.is_dir() else None,  # vLLM's metrics must not tell paths
        "tokenizer": config.tokenizer,
        "revision": config.revision,
        "dtype": config.dtype or ("float32" if on_cpu else "auto"),
        "load_format": config.load_format,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        "enforce_eager": on_cpu if config.enforce_eager is None else config.enforce_eager,
        "seed": config.seed,
    }
    return {name: value for name, value in arguments.items() if value is not None} | config.engine_args


def prior_penalties(vllm_config: Any) -> str | None:
    """Name of the logits processor that serves continuations with penalties; None where vLLM can have none.

    It is chosen when the model runner is settled: several versions would fall back to another one for its sake.
    """
    if vllm_config.speculative_config is not None:
        return None
    if not vllm_config.use_v2_model_runner:
        return "serve_app.engine.vllm.prior_penalties:PriorPenalties"
    try:
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext  # noqa: F401  # since 0.32 or so
    except ImportError:
        return None
    return "serve_app.engine.vllm.prior_penalties_v2:PriorPenaltiesV2"


def _stat_logger_factory(meter: LoadMeter) -> Any:
    """What vLLM calls for each rank, to get an object that takes the statistics of its steps."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class MeterLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            self._rank = engine_index

        def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
            meter.record(self._rank, scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

    return MeterLogger
