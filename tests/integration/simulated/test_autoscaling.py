"""Our autoscaling policy in Serve's controller: engine replicas follow what waits in the router, and drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat
from tests.support.sse_client import StreamedAnswer

ENGINE = "Engine-scaled"
MAX_REPLICAS = 3
MAX_STEP = 2
SCALED_WITHIN_S = 30.0
PLACES = 4
"""Streams that one replica runs."""


async def test_sleeping_model_serves_all_that_waited_for_it_and_grows_in_steps(scaling: ServedApp) -> None:
    await _until_target(scaling, 0)
    async with _watched(scaling) as watch:
        answers = await asyncio.gather(*(scaling.stream(chat("scaled", 40)) for _ in range(5 * PLACES)))
    assert all(answer.complete for answer in answers), "none was refused or lost"
    assert max(watch.targets) > 1, "for what waited in the router: Serve itself saw one call"
    assert watch.largest_step <= MAX_STEP


async def test_replicas_are_added_for_a_queue_and_finish_their_streams_when_they_are_given_up(
    scaling: ServedApp,
) -> None:
    async with _watched(scaling) as watch:
        asked = _Clients(scaling, 5 * PLACES)
        await watch.until_running(MAX_REPLICAS)
        answers = await asked.stop()
        # More than one replica has places for, and too few for three.
        streams = [asyncio.create_task(scaling.stream(chat("scaled", 500))) for _ in range(PLACES + 1)]
        await watch.until_running(MAX_REPLICAS - 1)
        assert not any(stream.done() for stream in streams), "they run while a replica is given up"
        answers += await asyncio.gather(*streams)
    assert all(answer.complete for answer in answers)


async def test_constant_load_changes_nothing(scaling: ServedApp) -> None:
    asked = _Clients(scaling, PLACES // 2)
    await _until_target(scaling, 1)  # what earlier tests left is given up
    async with _watched(scaling) as watch:
        await asyncio.sleep(5.0)  # longer than any stabilization
    answers = await asked.stop()
    assert set(watch.targets) == {1}
    assert all(answer.complete for answer in answers)


class _Clients:
    """Clients that each send one request after the other."""

    def __init__(self, app: ServedApp, count: int) -> None:
        self._app = app
        self._stopped = False
        self._tasks = [asyncio.create_task(self._ask_again_and_again()) for _ in range(count)]

    async def _ask_again_and_again(self) -> list[StreamedAnswer]:
        answers = []
        while not self._stopped:
            answers.append(await self._app.stream(chat("scaled", 40)))
        return answers

    async def stop(self) -> list[StreamedAnswer]:
        """All answers, once the last ones are complete."""
        self._stopped = True
        return [answer for answers in await asyncio.gather(*self._tasks) for answer in answers]


class _Watch:
    """The engine deployment over time, as Ray's dashboard shows it."""

    def __init__(self, app: ServedApp) -> None:
        self._app = app
        self.targets: list[int] = []
        self.running = 0
        self.largest_step = 0
        """Replicas that loaded at once."""

    async def look(self) -> None:
        shown = await _deployment(self._app)
        states = [each["state"] for each in shown["replicas"]]
        self.running = states.count("RUNNING")
        self.targets.append(shown["target_num_replicas"])
        self.largest_step = max(self.largest_step, states.count("STARTING"))

    async def look_again_and_again(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(0.2)

    async def until_running(self, count: int) -> None:
        async def there() -> bool:
            return self.running == count

        await eventually_async(there, SCALED_WITHIN_S, f"{count} engine replicas run")


@asynccontextmanager
async def _watched(app: ServedApp) -> AsyncIterator[_Watch]:
    watch = _Watch(app)
    await watch.look()
    looking = asyncio.create_task(watch.look_again_and_again())
    try:
        yield watch
    finally:
        looking.cancel()
        await asyncio.wait([looking])


async def _deployment(app: ServedApp) -> dict[str, Any]:
    applications = await asyncio.to_thread(app.cluster.applications)
    shown: dict[str, Any] = applications[app.name]["deployments"][ENGINE]
    return shown


async def _until_target(app: ServedApp, count: int) -> None:
    async def there() -> bool:
        shown = await _deployment(app)
        return bool(shown["target_num_replicas"] == count and len(shown["replicas"]) == count)

    await eventually_async(there, SCALED_WITHIN_S, f"{count} engine replicas are wanted and there")
