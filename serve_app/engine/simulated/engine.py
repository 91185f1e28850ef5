"""An `Engine` without a model and with no CPU use while it computes: a `SimulatedModel` on the event loop's clock."""

from __future__ import annotations

import asyncio
import logging

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import EngineFailed, NotContinuable
from serve_app.core.events import Accepted
from serve_app.core.interfaces import Emit
from serve_app.core.request import GenerationRequest, Prompt
from serve_app.engine.context_window import check_length, output_limit
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.model import SimulatedModel
from serve_app.engine.simulated.prompt import render, render_beside_others
from serve_app.engine.simulated.sequence import Job
from serve_app.engine.simulated.vocabulary import MAX_PIECE_BYTES

logger = logging.getLogger(__name__)


class SimulatedEngine:
    """Satisfies `serve_app.core.interfaces.Engine`. There is one timer for the whole batch, none while it is idle.

    A step that the event loop runs late is not made up for: the next one takes its full time from then on.
    """

    def __init__(self, config: SimulatedEngineConfig) -> None:
        self._config = config
        self._model = SimulatedModel(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: dict[Job, asyncio.Future[None]] = {}
        self._closed = False

    async def start(self) -> None:
        """Wait for the load time. Raises `EngineFailed` when a fault strikes; it may then be called again."""
        await asyncio.sleep(self._config.load_s)
        if self._model.faults.start_fails():
            raise EngineFailed("the simulated engine could not start")
        self._loop = asyncio.get_running_loop()
        self._model.start(self._loop.time())

    async def generate(self, request: GenerationRequest, emit: Emit) -> None:
        """See `Engine.generate`."""
        loop = self._ready_loop()
        self._model.check(loop.time())
        continuation = request.continuation
        if continuation is None:
            check_length(request.prompt, MAX_PIECE_BYTES, self._config.max_model_len)
            ids = await render_beside_others(request.prompt, self._config.max_model_len)
            self._model.check(loop.time())  # it may have died meanwhile
        elif request.sampling.n == 1:
            ids = render(Prompt(token_ids=continuation.prompt_token_ids))
        else:
            raise NotContinuable("A request for several choices cannot be continued.")
        max_tokens = output_limit(request, len(ids), self._config.max_model_len)
        job = self._model.submit(ids, request.sampling, max_tokens, emit, continuation)
        emit(Accepted(len(ids), ids))
        if not job.unfinished:
            _tell_end(job)
            return
        ended = loop.create_future()
        self._waiters[job] = ended
        if self._timer is None:
            self._begin_step(loop, loop.time())
        try:
            await ended
        finally:
            if self._waiters.pop(job, None) is not None:
                self._model.abort(job)

    def load(self) -> EngineLoad:
        """See `Engine.load`. Each choice counts as a running or waiting request of its own, as in vLLM."""
        return self._model.load()

    async def check_health(self) -> None:
        """See `Engine.check_health`."""
        loop = self._ready_loop()
        try:
            self._model.check(loop.time())
        finally:
            self._settle()

    def metrics_text(self) -> bytes:
        """Empty: the simulated engine has no metrics of its own."""
        return b""

    @property
    def max_model_len(self) -> int:
        """Context window in tokens."""
        return self._config.max_model_len

    @property
    def max_token_bytes(self) -> int:
        """See `Engine.max_token_bytes`."""
        return MAX_PIECE_BYTES

    async def close(self) -> None:
        """Stop at once; running generations raise `EngineFailed`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._model.die("the engine is closed")
        self._settle()

    def _ready_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise EngineFailed("the engine is not started")
        return self._loop

    def _begin_step(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        duration_s = self._model.begin_step(now)
        self._settle()
        if duration_s is None:
            self._timer = None
            return
        due = max(now + duration_s, loop.time())
        self._timer = loop.call_at(due, self._finish_step, loop, due)

    def _finish_step(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        try:
            self._model.finish_step(due)
        except Exception:
            logger.exception("the simulated engine failed in a step")
            self._model.die("the simulated engine failed in a step")
        self._begin_step(loop, due)

    def _settle(self) -> None:
        """Wake the callers of all jobs that ended."""
        for job in self._model.take_ended():
            ended = self._waiters.pop(job, None)
            if ended is None or ended.done():
                continue
            if job.error is None:
                ended.set_result(None)
            else:
                ended.set_exception(job.error)


def _tell_end(job: Job) -> None:
    """Tell how a continued output had ended."""
    for sequence in job.sequences:
        if (last := sequence.last_words()) is not None:
            job.emit(last)
        if sequence.finished is not None:
            job.emit(sequence.finished)
