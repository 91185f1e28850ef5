"""How long the event loop is held: the longest time for which nothing else on it could run."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

_TICK_S = 0.001


class LoopHold:
    """`async with LoopHold() as hold: ...; assert hold.longest_s < …`.

    Counts the time that this process computes between two ticks of a task on the same loop, in whatever thread: what
    other processes of a busy machine take is not the code's doing.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LoopHold:
        self._ticking = asyncio.create_task(self._tick())
        await asyncio.sleep(2 * _TICK_S)
        self.longest_s = 0.0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ticking is not None
        await asyncio.sleep(2 * _TICK_S)  # what has just ended held the loop as well
        self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            at_s, computed_s = time.perf_counter(), time.process_time()
            await asyncio.sleep(_TICK_S)
            held_s = min(time.perf_counter() - at_s, time.process_time() - computed_s)
            self.longest_s = max(self.longest_s, held_s)
