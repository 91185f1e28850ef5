"""Those who watch the health, in virtual time."""

from __future__ import annotations

import asyncio

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serve_app.ingress.grpc.config import GrpcConfig
from serve_app.ingress.grpc.health import watch
from tests.support.fake_router import FakeRouter
from tests.support.virtual_loop import run_virtual

CONFIG = GrpcConfig(health_look_s=1.0, health_watch_s=300.0)
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


async def seen(router: FakeRouter) -> list[tuple[int, float]]:
    """Each state that is told and when, and the end as state -1; in virtual seconds."""
    now = asyncio.get_running_loop().time
    states = [(state.status, now()) async for state in watch(router, HealthCheckRequest(), CONFIG)]
    return [*states, (-1, now())]


async def later(delay_s: float, router: FakeRouter, **changed: bool) -> None:
    await asyncio.sleep(delay_s)
    for name, value in changed.items():
        setattr(router, name, value)


def test_who_watches_is_told_of_changes() -> None:
    async def main() -> list[tuple[int, float]]:
        router = FakeRouter([])
        down, up = later(9.5, router, admits=False), later(20.5, router, admits=True)
        states, *_ = await asyncio.gather(seen(router), down, up)
        return states

    assert run_virtual(main())[:-1] == [(SERVING, 0.0), (NOT_SERVING, 10.0), (SERVING, 21.0)]


def test_a_watch_ends_after_its_time() -> None:
    assert run_virtual(seen(FakeRouter([]))) == [(SERVING, 0.0), (-1, 300.0)]


def test_a_watch_ends_at_once_when_the_replica_leaves() -> None:
    async def main() -> list[tuple[int, float]]:
        router = FakeRouter([])
        router.departure.observe(listed=True)

        async def leave() -> None:
            await asyncio.sleep(42.25)
            router.departure.observe(listed=False)

        states, _ = await asyncio.gather(seen(router), leave())
        return states

    assert run_virtual(main()) == [(SERVING, 0.0), (-1, 42.25)]


def test_a_replica_that_leaves_is_not_watched_at_all() -> None:
    async def main() -> list[tuple[int, float]]:
        router = FakeRouter([])
        for listed in (True, False):
            router.departure.observe(listed)
        return await seen(router)

    assert run_virtual(main()) == [(-1, 0.0)]
