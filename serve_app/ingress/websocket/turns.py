"""Turns in the order of asking: a lock whose holder hands it over."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """`async with turns:` waits until all who asked before have had theirs. Used from one event loop.

    Unlike `asyncio.Lock`, it also stays whole when a waiting coroutine is closed instead of cancelled, as one is that
    was begun without a task.
    """

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._hand_over()
            else:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        for turn in self._waiting:
            if not turn.done():  # a cancelled one leaves by itself
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._taken = False
