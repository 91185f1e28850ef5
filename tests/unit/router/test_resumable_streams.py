"""Streams that outlive their readers, their router and their engine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import (
    ClientTooSlow,
    InvalidRequest,
    QueueFull,
    StreamCancelled,
    StreamConflict,
    StreamNotFound,
    StreamTakenOver,
)
from serve_app.core.events import Accepted, Finished, TokenDelta
from tests.support.retained_world import KEY, World, read, request, text_of, whole
from tests.support.virtual_loop import run_virtual


def test_a_stream_is_read_as_one_that_is_not_retained():
    async def main():
        async with World() as world:
            events = await read(world["r0"].open(request(20)))
            assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
            assert text_of(events) == whole(20)

    run_virtual(main())


@pytest.mark.parametrize("router", ["r0", "r1"])
def test_cut_after_every_token_and_resumed_here_or_at_another_router_nothing_is_lost_or_repeated(router):
    async def main():
        async with World() as world:
            for cut in range(101):
                key = f"{cut:032x}"
                first = world["r0"].open(request(100, key))
                begun = await read(first, cut)
                await first.aclose()
                had = sum(len(event.token_ids) for event in begun if isinstance(event, TokenDelta))
                assert had == cut
                second = await world[router].resume(key, "t", cut)
                rest = await read(second)
                assert text_of(begun) + text_of(rest) == whole(100), cut
                assert isinstance(rest[0], Accepted) and isinstance(rest[-1], Finished)
                await second.aclose()
            outcomes = [r.sample("serve_app_requests_total", outcome="completed") for r in world.routers.values()]
            assert sum(outcomes) == 101
            assert sum(r.sample("serve_app_requests_total") for r in world.routers.values()) == 101

    run_virtual(main())
