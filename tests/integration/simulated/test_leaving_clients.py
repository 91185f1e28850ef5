"""Whoever goes away stops the work that was done for them."""

from __future__ import annotations

import asyncio
import random

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""


async def test_leaving_a_stream_stops_its_generation(pair: ServedApp) -> None:
    before = await pair.scrape()
    stream = await pair.openai.chat.completions.create(
        model="alpha",
        messages=[{"role": "user", "content": "go on"}],
        max_tokens=4000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await pair.until_generating(1)
    await stream.close()
    await pair.until_idle(ABORTED_WITHIN_S)
    after = await pair.scrape()
    for name in ("requests_total", "connection_drops_total"):
        labels = {"outcome" if name == "requests_total" else "reason": "cancelled"}
        gained = after.total(f"serve_app_{name}", **labels) - before.total(f"serve_app_{name}", **labels)
        assert gained == 1, name


async def test_leaving_an_unstreamed_request_stops_its_generation(pair: ServedApp) -> None:
    request = asyncio.create_task(pair.post(chat("alpha", 4000)))
    await pair.until_generating(1)
    request.cancel()
    await asyncio.wait([request])
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_many_clients_leaving_at_once_leave_nothing_running(pair: ServedApp) -> None:
    # No more, and on the slower model: Serve's own proxy takes about a millisecond of a core for each token.
    requests = [asyncio.create_task(pair.stream(chat("alpha", 4000))) for _ in range(10)]
    await pair.until_generating(10)
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_clients_leaving_at_any_moment_leave_nothing_running(pair: ServedApp) -> None:
    before = await pair.scrape()
    moments = random.Random(5)
    requests = [asyncio.create_task(pair.post(chat("beta", 60_000))) for _ in range(40)]
    for request in requests:
        asyncio.get_running_loop().call_later(moments.uniform(0.0, 0.8), request.cancel)
    await asyncio.wait(requests)
    await pair.until_idle(ABORTED_WITHIN_S)
    after = await pair.scrape()
    cancelled = [page.total("serve_app_requests_total", model="beta", outcome="cancelled") for page in (before, after)]
    assert cancelled[1] > cancelled[0], "none of them reached the router"


async def test_leaving_the_queue_makes_room_in_it(narrow: ServedApp) -> None:
    running = [asyncio.create_task(narrow.stream(chat("narrow", 4000))) for _ in range(2)]
    await narrow.until_generating(2)
    queued = [asyncio.create_task(narrow.post(chat("narrow", 5))) for _ in range(2)]
    await _until_queued(narrow, 2)
    for request in queued:
        request.cancel()
    await asyncio.wait(queued)
    await _until_queued(narrow, 0)
    next_one = asyncio.create_task(narrow.post(chat("narrow", 5)))
    await _until_queued(narrow, 1)
    for stream in running:
        stream.cancel()
    assert (await next_one).status_code == 200
    await asyncio.wait(running)


async def _until_queued(app: ServedApp, count: int) -> None:
    async def there() -> bool:
        return (await app.scrape()).total("serve_app_queue_depth") == count

    await eventually_async(there, ABORTED_WITHIN_S, f"{count} requests wait")
