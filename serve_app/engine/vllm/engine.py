"""The vLLM engine: uses of vLLM what has held from 0.25 to 0.33."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client import REGISTRY, Metric, generate_latest

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import EngineFailed, NotContinuable
from serve_app.core.interfaces import Emit
from serve_app.core.request import Continuation, GenerationRequest
from serve_app.engine.context_window import output_limit
from serve_app.engine.vllm.config import VllmEngineConfig
from serve_app.engine.vllm.continuation import (
    ContinuedStream,
    continued_arguments,
    ended_already,
    ended_by_token,
    has_output_penalties,
)
from serve_app.engine.vllm.continuation_text import ContinuedText
from serve_app.engine.vllm.load_meter import LoadMeter
from serve_app.engine.vllm.loading import LoadedModel, load
from serve_app.engine.vllm.orphan_guard import OrphanGuard
from serve_app.engine.vllm.prompt_renderer import PromptRenderer
from serve_app.engine.vllm.sampling import invalid_request, sampling_arguments
from serve_app.engine.vllm.stream import OutputStream

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

GUARD_INTERVAL_S = 0.5
"""Seconds between two looks for new child processes while the model loads."""


class VllmEngine:
    """One model in vLLM's AsyncLLM, whose core runs in child processes."""

    def __init__(self, config: VllmEngineConfig) -> None:
        self._config = config
        self._meter = LoadMeter()
        self._numbers = itertools.count()
        self._loading: asyncio.Task[LoadedModel] | None = None
        self._llm: AsyncLLM | None = None
        self._tokenizer: Any = None
        self._counts_prior_output = False
        self._guard: OrphanGuard | None = None
        self._not_ours: set[int] = set()
        self._renderer: PromptRenderer | None = None
        self._max_model_len = 0
        self._max_token_bytes = 0
        self._vocabulary_size = 0

    async def start(self) -> None:
        """Load the model. Raises `EngineFailed` when vLLM cannot. Takes half a minute upwards, off the event loop."""
        self._not_ours = {child.pid for child in psutil.Process().children(recursive=True)}
        self._guard = OrphanGuard()
        self._not_ours.add(self._guard.pid)
        self._loading = asyncio.create_task(load(self._config, self._meter))
        while not self._loading.done():
            await asyncio.wait({self._loading}, timeout=GUARD_INTERVAL_S)
            self._guard_children(self._guard)
        try:
            loaded = self._loading.result()
        except Exception as error:
            await self.close()
            if isinstance(error, EngineFailed):
                raise
            raise EngineFailed(f"vLLM could not load {self._config.model}: {error}") from error
        self._llm = loaded.llm
        self._tokenizer = loaded.tokenizer
        self._counts_prior_output = loaded.counts_prior_output
        self._max_model_len = loaded.llm.model_config.max_model_len
        self._vocabulary_size = loaded.llm.model_config.get_vocab_size()
        self._max_token_bytes = loaded.max_token_bytes
        self._renderer = PromptRenderer(
            loaded.tokenizer,
            self._config.chat_template,
            max_model_len=self._max_model_len,
            max_token_bytes=self._max_token_bytes,
        )

    async def generate(self, request: GenerationRequest, emit: Emit) -> None:
        """See `Engine.generate`."""
        if self._llm is None or self._renderer is None:
            raise EngineFailed("The engine is not running.")
        if request.continuation is not None:
            await self._continue(self._llm, request, request.continuation, emit)
            return
        prompt_ids = await self._renderer.render(request.prompt)
        limit = output_limit(request, len(prompt_ids), self._max_model_len)
        params = _sampling_params(sampling_arguments(request.sampling, limit, self._vocabulary_size))
        stream = OutputStream(emit, request.sampling.n, request.sampling.logprobs)
        await self._run(self._llm, request.request_id, prompt_ids, params, stream)

    async def _continue(
        self, llm: AsyncLLM, request: GenerationRequest, continuation: Continuation, emit: Emit
    ) -> None:
        """Go on with an output that another replica began."""
        sampling = request.sampling
        if sampling.n != 1:
            raise NotContinuable("A request for several choices cannot be continued.")
        if has_output_penalties(sampling) and not self._counts_prior_output:
            raise NotContinuable("This engine cannot count tokens before the continuation for the penalties.")
        prompt_ids = list(continuation.prompt_token_ids)
        limit = output_limit(request, len(prompt_ids), self._max_model_len)
        arguments = sampling_arguments(sampling, limit, self._vocabulary_size)
        whole = _sampling_params(arguments)
        whole.update_from_generation_config(llm.model_config.try_get_generation_config(), self._tokenizer.eos_token_id)
        text = ContinuedText(detokenizer(self._tokenizer, request.request_id, prompt_ids, whole))
        await text.prime(continuation.output_token_ids, continuation.text_sent, ended_by_token(continuation, whole))
        stream = ContinuedStream(emit, continuation, text, sampling.logprobs)
        if (finished := ended_already(continuation, text, limit, whole)) is not None:
            stream.finish(finished)
            return
        params = _sampling_params(continued_arguments(arguments, sampling, continuation))
        await self._run(llm, request.request_id, [*prompt_ids, *continuation.output_token_ids], params, stream)

    async def _run(
        self, llm: AsyncLLM, request_id: str, prompt_ids: list[int], params: Any, stream: OutputStream
    ) -> None:
        """Compute one request into `stream`; aborts it unless it ends by itself."""
        # The same request may come again, by another attempt: vLLM's id must not.
        vllm_id = f"{request_id}-{next(self._numbers)}"
        collector = None
        self._meter.add_sequences(params.n)
        try:
            collector = await llm.add_request(vllm_id, {"prompt_token_ids": prompt_ids}, params)
            stream.accept(prompt_ids)
            # vLLM would wake a task for each output: `put` instead of its collector's takes it there and then.
            first = collector.get_nowait()
            collector.put = stream.put
            if first is not None:
                stream.put(first)
            await stream.done
            if stream.cut:
                await self._abort(llm, vllm_id, collector)
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
        finally:
            self._meter.add_sequences(-params.n)

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

    @property
    def max_token_bytes(self) -> int:
        """See `Engine.max_token_bytes`."""
        return self._max_token_bytes

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
            loading.result().llm.shutdown()
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


def _sampling_params(arguments: dict[str, Any]) -> Any:
    """vLLM's `SamplingParams`. Raises `InvalidRequest`."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    try:
        return SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)
    except _refusals() as error:
        raise invalid_request(error) from error


def detokenizer(tokenizer: Any, request_id: str, prompt_ids: list[int], params: Any) -> Any:
    """The detokenizer that vLLM gives to a request."""
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    request = SimpleNamespace(
        request_id=request_id, prompt_token_ids=prompt_ids, prompt_embeds=None, sampling_params=params
    )
    return IncrementalDetokenizer.from_new_request(tokenizer, request)


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises on a request that is wrong: `ValueError` before 0.30, its own tree since."""
    from vllm import exceptions

    client_error = getattr(exceptions, "VLLMClientError", ValueError)
    return (ValueError, OverflowError, client_error)
