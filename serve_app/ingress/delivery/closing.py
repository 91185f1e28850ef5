"""Ends work completely, even when whoever waits for the end is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from serve_app.core.interfaces import TokenStream


async def close_completely(stream: TokenStream) -> None:
    """Close `stream`; a cancellation of this task is passed on after."""
    await finished(asyncio.ensure_future(stream.aclose()))


async def finished(work: asyncio.Future[Any]) -> None:
    """Wait until `work` is done, and raise what it raised; a cancellation of this task is passed on after."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    work.result()
    if cancelled is not None:
        raise cancelled
