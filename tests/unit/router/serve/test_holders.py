"""Other replicas are asked for a stream, and those that are dead or slow are left out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve.handle import DeploymentHandle

from serve_app.core.errors import EngineLost
from serve_app.router.serve import live_replicas
from serve_app.router.serve.holders import ServeHolders
from serve_app.router.serve.pinned_calls import PinnedCalls
from serve_app.token_channel.handover import Claim, Moved

CLAIM = Claim("k", "t", "r1")


class Result:
    """What one replica answers, or how it fails."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def get_async(self) -> object:
        return await answered(self.answer)


class Broadcast:
    """What a broadcast brings for each replica; "nobody" for an error at once, "no list" for none at all."""

    def __init__(self, answers: list[object]) -> None:
        self.answers = answers
        self.called: list[tuple[object, ...]] = []

    def broadcast(self, *call: object) -> Broadcast:
        self.called.append(call)
        if self.answers == ["nobody"]:
            raise RuntimeError("no replicas")
        return self

    async def _fetch_replica_results_async(self) -> list[Result]:
        if self.answers == ["no list"]:
            await answered("slow")
        return [Result(answer) for answer in self.answers]


async def answered(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    if answer == "slow":
        await asyncio.get_running_loop().create_future()
    return answer


class Pinned:
    """Calls to engine replicas, answered by what stands for each, by name."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    async def call(self, method: str, target: str, claim: Claim) -> object:
        assert (method, claim) == ("claim", CLAIM)
        return await answered(self.answers[target])


def holders(routers: Broadcast, engines: dict[str, Any]) -> ServeHolders:
    live_replicas.publish("Held", frozenset(engines))
    calls: PinnedCalls = Pinned(engines)  # type: ignore[assignment]  # what is used of it
    handle: DeploymentHandle = routers
    return ServeHolders(handle, {"Held": calls}, 0.05)


@pytest.mark.parametrize("bad", [RuntimeError("dead"), "slow"])
async def test_routers_that_are_dead_or_slow_cost_no_answer_of_the_others(bad):
    routers = Broadcast([None, bad, Moved()])

    assert await holders(routers, {}).ask_routers(CLAIM) == [None, None, Moved()]
    assert routers.called == [("claim", CLAIM)]


@pytest.mark.parametrize("trouble", ["nobody", "no list"])
async def test_no_router_at_all_is_no_error(trouble):
    assert await holders(Broadcast([trouble]), {}).ask_routers(CLAIM) == []


@pytest.mark.parametrize("bad", [EngineLost("dead"), RuntimeError("defect"), "slow"])
async def test_engines_that_are_dead_fail_or_are_slow_are_left_out(bad):
    asked = holders(Broadcast([]), {"a": Moved(), "b": bad, "c": None})

    answers = await asked.ask_engines(CLAIM)

    assert sorted(answers, key=str) == sorted([Moved(), None, None], key=str)
