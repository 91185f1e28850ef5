from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from serve_app.ingress.delivery.begun_work import begin
from serve_app.ingress.websocket.turns import Turns


class Line:
    """Work that takes turns: each `use` waits within its turn until `let_go` is set."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.served: list[str] = []
        self.let_go = asyncio.Event()

    async def use(self, name: str) -> None:
        async with self.turns:
            self.served.append(name)
            await self.let_go.wait()


async def test_turns_come_in_the_order_of_asking() -> None:
    line = Line()
    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(line.use(name))
        await asyncio.sleep(0)
        assert line.served == ["a"]
        line.let_go.set()
    assert line.served == ["a", "b", "c"]


async def test_a_newcomer_does_not_overtake_whoever_was_just_told() -> None:
    line = Line()
    holder, waiter = asyncio.create_task(line.use("a")), asyncio.create_task(line.use("b"))
    await asyncio.sleep(0)
    line.let_go.set()
    await holder
    await line.use("c")
    await waiter
    assert line.served == ["a", "b", "c"]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("way", ["cancelled", "closed"])
async def test_a_waiter_that_leaves_gives_its_turn_to_the_next(told: bool, way: str) -> None:
    line = Line()
    line.let_go.set()
    leaves: Callable[[], object]
    async with line.turns:
        if way == "closed":
            waiting = begin(line.use("b"))
            assert waiting is not None
            leaves = waiting.close
        else:
            leaves = asyncio.create_task(line.use("b")).cancel
            await asyncio.sleep(0)
        last = asyncio.create_task(line.use("c"))
        await asyncio.sleep(0)
        if not told:
            leaves()
            waiting = None
    leaves()
    waiting = None
    async with asyncio.timeout(1.0):
        await last
    assert line.served == ["c"]
    await line.use("d")


async def test_a_holder_that_fails_hands_over() -> None:
    turns = Turns()
    with pytest.raises(ValueError):
        async with turns:
            raise ValueError
    async with asyncio.timeout(1.0), turns:
        pass
