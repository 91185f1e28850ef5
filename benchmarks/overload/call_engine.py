"""An engine whose calls are not token streams: a service time and a fate drawn for each call, some calls in parallel.

This is the outside LLM API of the project's source document, "0.3 s, 20 % of the calls +3 s, 10 % failing".
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from benchmarks.overload.event_loop import EventLoop, Timer
from benchmarks.overload.jobs import Job, JobListener
from serve_app.core.engine_status import EngineLoad


@dataclass(frozen=True)
class CallProfile:
    """How long calls take and how often they fail. A failure shows when the call's time is over."""

    parallel: int = 4
    call_s: float = 0.3
    slow_probability: float = 0.2
    slow_extra_s: float = 3.0
    failure_probability: float = 0.1


class CallEngine:
    """First come, first served. The n-th call of an ask has the same fate under every policy and seed of its own."""

    def __init__(self, profile: CallProfile, seed: int, loop: EventLoop, listener: JobListener) -> None:
        self.profile = profile
        self.computed = 0.0
        self._seed = seed
        self._loop = loop
        self._listener = listener
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, Timer] = {}
        self._completed = 0

    @property
    def held(self) -> int:
        """Jobs that the engine has, running or not."""
        return len(self._waiting) + len(self._running)

    def submit(self, job: Job) -> None:
        """See `SimulatedBackend.submit`."""
        self._waiting.append(job)
        self._begin()

    def abort(self, job: Job) -> None:
        """See `SimulatedBackend.abort`."""
        if (timer := self._running.pop(job, None)) is not None:
            timer.cancel()
            self._begin()
        elif job in self._waiting:
            self._waiting.remove(job)

    def flush(self) -> None:
        """See `SimulatedBackend.flush`: a call answers in one piece."""

    def kill(self) -> None:
        """See `SimulatedBackend.kill`."""
        for timer in self._running.values():
            timer.cancel()
        self._running.clear()
        self._waiting.clear()

    def load(self) -> EngineLoad:
        """See `SimulatedBackend.load`. Outside APIs tell nothing of their memory."""
        return EngineLoad(len(self._running), len(self._waiting), 0.0, self._completed, self._completed)

    def _begin(self) -> None:
        profile = self.profile
        while self._waiting and len(self._running) < profile.parallel:
            job = self._waiting.popleft()
            fate = random.Random(f"{self._seed}/{job.attempt.request.ask.ask_id}/{job.call}")
            call_s = profile.call_s
            if fate.random() < profile.slow_probability:
                call_s += profile.slow_extra_s
            fails = fate.random() < profile.failure_probability
            self.computed += 1
            self._running[job] = self._loop.after(call_s, self._end, job, fails)

    def _end(self, job: Job, fails: bool) -> None:
        del self._running[job]
        self._completed += 1
        if fails:
            self._listener.failed(job)
        else:
            self._listener.tokens(job, 0, job.output_tokens)
            self._listener.finished(job)
        self._begin()
