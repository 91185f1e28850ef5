"""A thread that does one job at a time, and the line of jobs that wait for it: small ones first, but none for ever."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from serve_app.core.errors import EngineFailed
from serve_app.core.interfaces import Clock

PATIENCE_S_PER_MCHAR = 20.0
"""Seconds for which a job of a million characters lets smaller ones pass: about ten times what it takes itself."""


@dataclass(frozen=True, slots=True, order=True)
class _Job:
    """One that waits. Jobs are done in the order of `due`."""

    due: float
    number: int
    work: Callable[[], list[int]] = field(compare=False)
    result: asyncio.Future[list[int]] = field(compare=False)


class RenderLine:
    """Used from one event loop; `close` it to end its thread.

    The next job is the one with the earliest due time: when it came, plus a time in proportion to its size (earliest
    deadline first, Liu and Layland 1973). So a small job passes large ones that came before it, and a large one is
    passed only by jobs that came within its own patience. Who is cancelled leaves the line at once. A job that has
    begun runs to its end, since a thread cannot be stopped.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._clock = clock
        self._numbers = itertools.count()
        self._waiting: list[_Job] = []
        self._busy = False
        self._closed = False

    async def run(self, size_chars: int, work: Callable[[], list[int]]) -> list[int]:
        """What `work` returns or raises, on the thread. Raises `EngineFailed` when the line is closed before."""
        loop = asyncio.get_running_loop()
        due = self._clock() + size_chars * PATIENCE_S_PER_MCHAR / 1e6
        job = _Job(due, next(self._numbers), work, loop.create_future())
        bisect.insort(self._waiting, job)
        self._begin(loop)
        try:
            return await job.result
        finally:
            if job.result.cancelled() and job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """End the thread once it is done; whoever waits gets `EngineFailed`. Idempotent."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            _fail(job.result)
        self._thread.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._busy or not self._waiting:
            return
        job = self._waiting.pop(0)
        if self._closed:
            _fail(job.result)
            return
        self._busy = True
        done = loop.run_in_executor(self._thread, job.work)
        # Not awaited by the caller: the thread is busy until the job has ended, also when its caller has left.
        done.add_done_callback(lambda done: self._ended(loop, job.result, done))

    def _ended(
        self, loop: asyncio.AbstractEventLoop, result: asyncio.Future[list[int]], done: asyncio.Future[list[int]]
    ) -> None:
        self._busy = False
        self._begin(loop)
        error = done.exception()
        if result.done():
            return
        if error is None:
            result.set_result(done.result())
        else:
            result.set_exception(error)


def _fail(result: asyncio.Future[list[int]]) -> None:
    if not result.done():
        result.set_exception(EngineFailed("The engine is closed."))
