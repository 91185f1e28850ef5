"""What streams leave behind at a router: nothing that waits for the garbage collector."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.reference_cycles import left_in_cycles
from tests.support.retained_reading import read_and_leave, virtual
from tests.support.retained_world import World, request


@pytest.mark.parametrize("retained", [False, True])
@virtual
async def test_an_ended_stream_leaves_no_cycles(retained: bool) -> None:
    async with World(max_streams=0) as world:
        lifecycle = world["r0"]._lifecycle

        async def ask(number: int) -> None:
            asked = request(30, f"{number:032x}")
            if retained:
                await read_and_leave(world["r0"].open(asked))
            else:
                stream = lifecycle.open(replace(asked, retention=None))
                while await stream.next() is not None:
                    pass
                await stream.aclose()

        await ask(99)
        with left_in_cycles() as left:
            for number in range(10):
                await ask(number)
            await asyncio.sleep(60.0)
    assert not left
