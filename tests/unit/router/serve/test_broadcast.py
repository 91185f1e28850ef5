from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from serve_app.router.serve.broadcast import ask_all

HTTP_REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("HTTP_REQUEST", default="none")


class Result:
    def __init__(self, answer: Awaitable[object]) -> None:
        self._answer = answer

    async def get_async(self) -> object:
        return await self._answer


class Routers:
    """A handle whose replicas answer with what these coroutines return."""

    def __init__(self, *answers: Awaitable[object]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], str]] = []

    def broadcast(self, method: str, *args: Any) -> Routers:
        self.calls.append((method, args, HTTP_REQUEST.get()))
        return self

    async def _fetch_replica_results_async(self) -> Sequence[Result]:
        return [Result(answer) for answer in self.answers]


async def answer(value: object) -> object:
    if isinstance(value, Exception):
        raise value
    return value


async def never() -> object:
    await asyncio.get_running_loop().create_future()
    return None


async def ask(routers: Any, timeout_s: float = 5.0) -> list[Any]:
    return await ask_all(routers, "claim", 1, timeout_s=timeout_s)


async def test_the_call_knows_nothing_of_the_request_that_asks() -> None:
    HTTP_REQUEST.set("GET /metrics")
    routers = Routers(answer("a"))
    assert await ask(routers) == ["a"]
    assert routers.calls == [("claim", (1,), "none")]


async def test_who_fails_or_hangs_costs_no_answer_of_the_others() -> None:
    found = await ask(Routers(answer("a"), answer(RuntimeError("dead")), never(), answer("b")), 0.01)
    assert (found[0], found[3]) == ("a", "b")
    assert [type(each) for each in found[1:3]] == [RuntimeError, TimeoutError]


async def test_no_list_of_replicas_is_an_error() -> None:
    class Hanging(Routers):
        async def _fetch_replica_results_async(self) -> Sequence[Result]:
            await never()
            return []

    with pytest.raises(TimeoutError):
        await ask(Hanging(), 0.01)
