"""Does what takes long for long input away from the event loop, on which the tokens of all streams pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

SHORT_BYTES = 64 * 1024
"""Input up to this is worked on at once: that takes about a millisecond, and a thread's turn is no shorter."""

T = TypeVar("T")

# One thread: threads that compute in Python take turns, so a second one helps nobody, and the event loop, which waits
# for its turn as well, would come round less often.
_worker = ThreadPoolExecutor(1, thread_name_prefix="long-work")


async def by_size(size_bytes: int, work: Callable[[], T]) -> T:
    """What `work` returns or raises. It is called here when its input is short, and in a thread when it is long.

    `work` must be safe to call in another thread, and hold the interpreter for few milliseconds at a time. When the
    caller is cancelled, work that has begun goes on to its end, for nobody.
    """
    return work() if size_bytes <= SHORT_BYTES else await in_thread(work)


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, called in the thread."""
    return await asyncio.get_running_loop().run_in_executor(_worker, work)
