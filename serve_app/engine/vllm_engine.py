"""The vLLM engine: the one module that knows vLLM, of which it uses what has held from 0.25 to 0.33."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client import REGISTRY, Metric, generate_latest

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import EngineFailed
from serve_app.core.interfaces import Emit
from serve_app.core.request import GenerationRequest
from serve_app.engine.context_window import output_limit
from serve_app.engine.load_meter import LoadMeter
from serve_app.engine.orphan_guard import OrphanGuard
from serve_app.engine.prompt_renderer import PromptRenderer
from serve_app.engine.vllm_config import VllmEngineConfig
from serve_app.engine.vllm_sampling import invalid_request, sampling_arguments
from serve_app.engine.vllm_stream import OutputStream

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_KV_CACHE_GIB = 1.0
GUARD_INTERVAL_S = 0.5
"""Seconds between two looks for new child processes while the model loads."""

_ENV = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anybody
}
_CPU_ENV = {
    # Threads that wait for work sleep: spinning ones take the cores from router and replica.
    "OMP_WAIT_POLICY": "PASSIVE",
    # One process for scheduler and model, as with one GPU: a second one costs 0.6 GB, and a core that spins.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VllmEngine:
    """One model in vLLM's AsyncLLM, whose core runs in child processes."""

    def __init__(self, config: VllmEngineConfig) -> None:
        self._config = config
        self._meter = LoadMeter()
        self._numbers = itertools.count()
        self._loading: asyncio.Task[tuple[AsyncLLM, Any]] | None = None
        self._llm: AsyncLLM | None = None
        self._guard: OrphanGuard | None = None
        self._not_ours: set[int] = set()
        self._renderer: PromptRenderer | None = None
        self._max_model_len = 0
        self._vocabulary_size = 0

    async def start(self) -> None:
        """Load the model. Raises `EngineFailed` when vLLM cannot. Takes half a minute upwards, off the event loop."""
        self._not_ours = {child.pid for child in psutil.Process().children(recursive=True)}
        self._guard = OrphanGuard()
        self._not_ours.add(self._guard.pid)
        self._loading = asyncio.create_task(_load(self._config, self._meter))
        while not self._loading.done():
            await asyncio.wait({self._loading}, timeout=GUARD_INTERVAL_S)
            self._guard_children(self._guard)
        try:
            llm, tokenizer = self._loading.result()
        except Exception as error:
            await self.close()
            if isinstance(error, EngineFailed):
                raise
            raise EngineFailed(f"vLLM could not load {self._config.model}: {error}") from error
        self._llm = llm
        self._max_model_len = llm.model_config.max_model_len
        self._vocabulary_size = llm.model_config.get_vocab_size()
        self._renderer = PromptRenderer(tokenizer, self._config.chat_template)

    async def generate(self, request: GenerationRequest, emit: Emit) -> None:
        """See `Engine.generate`."""
        if self._llm is None or self._renderer is None:
            raise EngineFailed("The engine is not running.")
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        prompt_ids = await self._renderer.render(request.prompt)
        limit = output_limit(request, len(prompt_ids), self._max_model_len)
        try:
            arguments = sampling_arguments(request.sampling, limit, self._vocabulary_size)
            params = SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)
        except _refusals() as error:
            raise invalid_request(error) from error
        choices = request.sampling.n
        self._meter.add_sequences(choices)
        try:
            stream = OutputStream(emit, choices, request.sampling.logprobs)
            await self._run(self._llm, request.request_id, TokensPrompt(prompt_token_ids=prompt_ids), params, stream)
        finally:
            self._meter.add_sequences(-choices)

    async def _run(self, llm: AsyncLLM, request_id: str, prompt: Any, params: Any, stream: OutputStream) -> None:
        """Compute one request into `stream`; aborts it unless it ends by itself."""
        # The same request may come again, by another attempt: vLLM's id must not.
        vllm_id = f"{request_id}-{next(self._numbers)}"
        collector = None
        try:
            collector = await llm.add_request(vllm_id, prompt, params)
            stream.accept(prompt["prompt_token_ids"])
            # vLLM would wake a task for each output: `put` instead of its collector's takes it there and then.
            first = collector.get_nowait()
            collector.put = stream.put
            if first is not None:
                stream.put(first)
            await stream.done
        except asyncio.CancelledError:
            stream.close()
            await self._abort(llm, vllm_id, collector)
            raise
        except Exception as error:
            stream.close()
            if collector is None and isinstance(error, _refusals()):
                raise invalid_request(error) from error
            await self._abort(llm, vllm_id, collector)
            if isinstance(error, EngineFailed):
                raise
            raise EngineFailed(f"vLLM failed: {error}") from error

    @staticmethod
    async def _abort(llm: AsyncLLM, vllm_id: str, collector: Any) -> None:
        if llm.errored:
            return
        if collector is None:  # cancelled while it was being added
            await llm.abort(vllm_id)
        else:
            await llm.abort(collector.request_id, internal=True)

    def load(self) -> EngineLoad:
        """See `Engine.load`."""
        return self._meter.load()

    async def check_health(self) -> None:
        """See `Engine.check_health`."""
        if self._llm is None:
            raise EngineFailed("The engine is not running.")
        try:
            await self._llm.check_health()
        except Exception as error:
            raise EngineFailed(f"vLLM is dead: {error}") from error

    def metrics_text(self) -> bytes:
        """See `Engine.metrics_text`."""
        return generate_latest(_VllmMetrics())

    @property
    def max_model_len(self) -> int:
        """See `Engine.max_model_len`."""
        return self._max_model_len

    async def close(self) -> None:
        """See `Engine.close`. Kills what vLLM leaves behind, and what a start in progress has begun."""
        self._llm = None
        guard, self._guard = self._guard, None
        loading, self._loading = self._loading, None
        if guard is None or loading is None:
            return
        while not loading.done():  # a thread cannot be cancelled, but it fails when its processes die
            self._guard_children(guard)
            guard.kill_watched()
            await asyncio.wait({loading}, timeout=GUARD_INTERVAL_S)
        if not loading.cancelled() and loading.exception() is None:
            # On this loop, which it blocks for some seconds: elsewhere vLLM's output loop would report a dead core.
            loading.result()[0].shutdown()
        if self._renderer is not None:
            self._renderer.close()
        guard.kill_watched()
        guard.close()

    def _guard_children(self, guard: OrphanGuard) -> None:
        children = psutil.Process().children(recursive=True)
        guard.watch(child.pid for child in children if child.pid not in self._not_ours)


class _VllmMetrics:
    """vLLM's share of this process's metrics."""

    def collect(self) -> Iterator[Metric]:
        """The metrics whose names begin with `vllm:`."""
        return (metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:"))


async def _load(config: VllmEngineConfig, meter: LoadMeter) -> tuple[AsyncLLM, Any]:
    """The engine and its tokenizer. Imports and builds in two steps: vLLM keeps frames of those who import it."""
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


def _build(arguments: dict[str, Any], meter: LoadMeter) -> tuple[AsyncLLM, Any]:
    """Load the model."""
    import vllm.envs
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    allowed = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in sorted(arguments.keys() - allowed):
        close = difflib.get_close_matches(name, allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise EngineFailed(f"engine_args: this vLLM has no engine argument {name}{hint}")
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[_stat_logger_factory(meter)])
    # vLLM would look settings up in the environment for each output.
    if cache := getattr(vllm.envs, "enable_envs_cache", None):
        cache()
    return llm, llm.get_tokenizer()


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


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises on a request that is wrong: `ValueError` before 0.30, its own tree since."""
    from vllm import exceptions

    client_error = getattr(exceptions, "VLLMClientError", ValueError)
    return (ValueError, OverflowError, client_error)
