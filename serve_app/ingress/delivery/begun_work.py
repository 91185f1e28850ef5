"""Runs a coroutine at once as far as it goes without waiting, and only the rest of it in a task.

Waking a task, and the coroutines below it, costs more than writing one token to a client that reads.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any


def begin(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run `work` up to its first wait; None when it has ended.

    Else what is to be awaited, from any task of this event loop, or closed: `work` waits, or it failed and awaiting
    raises.
    """
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    except Exception as error:
        return _raising(error)
    return _rest(_Begun(work, waits_for))


class _Begun:
    """A coroutine that has run up to its first wait, for a task to go on with."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                value = yield waits_for
            except BaseException as error:
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, value)
            try:
                waits_for = step()
            except StopIteration:
                return


async def _rest(begun: _Begun) -> None:
    await begun


async def _raising(error: Exception) -> None:
    raise error
