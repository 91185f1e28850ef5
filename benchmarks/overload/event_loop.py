"""Virtual time: a heap of things to do. No asyncio and no threads, so a run is a pure function of its seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Timer:
    """One thing to do later; `cancel` makes sure that it never happens."""

    __slots__ = ("_action", "_args")

    def __init__(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._action: Callable[..., object] | None = action
        self._args = args

    def cancel(self) -> None:
        """Forget it. Idempotent."""
        self._action = None
        self._args = ()

    def fire(self) -> None:
        """Do it, once."""
        action, args = self._action, self._args
        self.cancel()
        if action is not None:
            action(*args)


class EventLoop:
    """A discrete-event loop. What is due at the same time happens in the order in which it was scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual seconds since the start."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def at(self, when: float, action: Callable[..., object], *args: Any) -> Timer:
        """Call `action(*args)` at `when` (seconds), or now if that is past."""
        timer = Timer(action, args)
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), timer))
        return timer

    def after(self, delay_s: float, action: Callable[..., object], *args: Any) -> Timer:
        """Call `action(*args)` in `delay_s` seconds."""
        return self.at(self.now + delay_s, action, *args)

    def run(self, until: float) -> None:
        """Do everything that is due up to `until` (seconds), then stand there."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, timer = heapq.heappop(heap)
            timer.fire()
        self.now = max(self.now, until)
