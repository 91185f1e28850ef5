"""Waiting for what other processes do: looks again and again until a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 0.1


def eventually(look: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """The first true value of `look()`; fails when there is none within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(_LOOK_EVERY_S)
    return found


async def eventually_async(look: Callable[[], Awaitable[T | None]], timeout_s: float, what: str) -> T:
    """`eventually` for a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(_LOOK_EVERY_S)
    return found
