"""Whose turn it is on the thread that renders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from serve_app.core.errors import EngineFailed, InvalidRequest
from serve_app.engine.vllm.render_line import PATIENCE_S_PER_MCHAR, RenderLine
from tests.support.settling import settle

LARGE = 1_000_000


class _Thread:
    """A line whose first job holds its thread until `go_on` is set; keeps the order in which the others are done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.line = RenderLine("test", lambda: self.now)
        self.go_on = threading.Event()
        self.done: list[str] = []

    def begin(self) -> asyncio.Task[list[int]]:
        return asyncio.create_task(self.line.run(1, self._wait))

    def put(self, name: str, size_chars: int) -> asyncio.Task[list[int]]:
        return asyncio.create_task(self.line.run(size_chars, lambda: self._work(name)))

    def _wait(self) -> list[int]:
        assert self.go_on.wait(10)
        return []

    def _work(self, name: str) -> list[int]:
        self.done.append(name)
        return [len(self.done)]


@pytest.fixture
def thread() -> Iterator[_Thread]:
    thread = _Thread()
    yield thread
    thread.go_on.set()
    thread.line.close()


async def test_small_jobs_go_before_large_ones_that_came_before(thread: _Thread) -> None:
    tasks = [thread.begin(), thread.put("large", LARGE), thread.put("small", 1), thread.put("middle", LARGE // 2)]
    await settle()
    thread.go_on.set()
    await asyncio.gather(*tasks)
    assert thread.done == ["small", "middle", "large"]


async def test_equal_jobs_are_done_in_the_order_in_which_they_came(thread: _Thread) -> None:
    tasks = [thread.begin(), *(thread.put(name, 10) for name in "abc")]
    await settle()
    thread.go_on.set()
    assert [await task for task in tasks] == [[], [1], [2], [3]]
    assert thread.done == ["a", "b", "c"]


async def test_a_large_job_is_passed_only_within_its_patience(thread: _Thread) -> None:
    tasks = [thread.begin(), thread.put("large", LARGE)]
    await settle()
    for name, now in (("early", PATIENCE_S_PER_MCHAR - 1), ("late", PATIENCE_S_PER_MCHAR)):
        thread.now = now
        tasks.append(thread.put(name, 1))
        await settle()
    thread.go_on.set()
    await asyncio.gather(*tasks)
    assert thread.done == ["early", "large", "late"]


async def test_who_is_cancelled_leaves_the_line(thread: _Thread) -> None:
    tasks = [thread.begin(), thread.put("gone", 1), thread.put("stays", 1)]
    await settle()
    tasks[1].cancel()
    await settle()
    assert len(thread.line._waiting) == 1
    thread.go_on.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert thread.done == ["stays"]


async def test_the_thread_stays_busy_when_the_caller_of_its_job_has_left(thread: _Thread) -> None:
    first, second = thread.begin(), thread.put("second", 1)
    await settle()
    first.cancel()
    await settle()
    assert thread.done == []
    thread.go_on.set()
    assert await second == [1]


async def test_an_error_is_the_callers_and_the_next_job_is_done(thread: _Thread) -> None:
    def fail() -> list[int]:
        raise InvalidRequest("no", "prompt")

    with pytest.raises(InvalidRequest):
        await thread.line.run(1, fail)
    assert await thread.put("next", 1) == [1]


async def test_closing_fails_who_waits_and_who_comes_later(thread: _Thread) -> None:
    running, waiting = thread.begin(), thread.put("waiting", 1)
    await settle()
    thread.line.close()
    with pytest.raises(EngineFailed):
        await waiting
    thread.go_on.set()
    assert await running == []
    with pytest.raises(EngineFailed):
        await thread.put("late", 1)
