from __future__ import annotations

import asyncio
import sys

import pytest

from serve_app.telemetry import heap
from serve_app.telemetry.heap import TRIM_EVERY_S, find_trim, keep_heap_trimmed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")
def test_the_c_library_is_asked() -> None:
    trim = find_trim()
    assert trim is not None
    assert trim() in (0, 1)


async def test_the_heap_is_trimmed_again_and_again_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    trimmed = 0
    third = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if trimmed == 3:
            third.set()
            await asyncio.Event().wait()

    def trim() -> None:
        nonlocal trimmed
        trimmed += 1

    monkeypatch.setattr("serve_app.telemetry.heap.asyncio.sleep", sleep)
    work = asyncio.create_task(keep_heap_trimmed(trim))
    await third.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert (trimmed, slept) == (3, [TRIM_EVERY_S] * 4)


async def test_where_it_cannot_be_done_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "find_trim", lambda: None)
    await keep_heap_trimmed()
