from __future__ import annotations

import asyncio

import pytest

from serve_app.ingress.delivery.begun_work import begin


async def test_work_that_does_not_wait_is_done_at_once() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    assert begin(work()) is None
    assert done == [1]


async def test_the_rest_runs_when_it_is_awaited_through_all_its_waits() -> None:
    steps: list[int] = []
    going_on = asyncio.Event()

    async def work() -> None:
        steps.append(1)
        await going_on.wait()
        steps.append(2)
        await asyncio.sleep(0)
        steps.append(3)

    rest = begin(work())
    assert rest is not None
    assert steps == [1]
    going_on.set()
    await rest
    assert steps == [1, 2, 3]


async def test_a_failure_is_raised_to_whoever_awaits() -> None:
    async def work() -> None:
        raise ValueError("now")

    rest = begin(work())
    assert rest is not None
    with pytest.raises(ValueError, match="now"):
        await rest


async def test_cancelling_the_rest_reaches_the_work() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    rest = begin(work())
    assert rest is not None
    task = asyncio.create_task(rest)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), seen) == (True, ["cancelled"])


async def test_closing_the_rest_ends_the_work() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    rest = begin(work())
    assert rest is not None
    rest.close()
    del rest
    assert seen == ["ended"]
