"""Lets an event loop come to rest, without a clock."""

from __future__ import annotations

import asyncio

_TURNS = 10
"""Turns of the loop: more than tasks wait for each other in a row, in what is tested."""


async def settle() -> None:
    """Let every task run on until it waits for something that only the test can bring about."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
