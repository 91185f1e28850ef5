"""Takes all places of the model that has few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat

PLACES = 2
WAITING = 2


@asynccontextmanager
async def all_places_taken(app: ServedApp) -> AsyncIterator[int]:
    """All places of the model `narrow` are taken, for as long as the block lasts; gives how many wait already."""
    # More than there are places: that some wait is the sign that no place is left.
    filling = [asyncio.create_task(app.stream(chat("narrow", 8000))) for _ in range(PLACES + WAITING)]
    try:
        await until_queued(app, WAITING)
        yield WAITING
    finally:
        for each in filling:
            each.cancel()
        await asyncio.wait(filling)


async def until_queued(app: ServedApp, count: int) -> None:
    """Wait until exactly `count` requests wait in the routers' queues."""

    async def there() -> bool:
        return (await app.scrape()).total("serve_app_queue_depth") == count

    await eventually_async(there, 10.0, f"{count} requests wait")
