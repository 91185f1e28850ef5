"""Behind HAProxy, which reaches the routers without Serve's own proxy, the application keeps its promises."""

from __future__ import annotations

import asyncio
import itertools

import openai
import pytest

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat
from tests.support.unread_stream import unread_stream

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
CUT_WITHIN_S = 60.0
"""The operating system's socket buffers on the way hold several MiB before the router notices anything."""


async def test_stream_equals_the_whole_answer_and_keeps_its_headers(fast: ServedApp) -> None:
    whole = await fast.post(chat("fast", 50, seed=3), x_request_id="through-haproxy")
    answer = await fast.stream(chat("fast", 50, seed=3))
    assert answer.complete
    assert answer.text == whole.json()["choices"][0]["message"]["content"]
    assert len(answer.chunks) > 1
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert whole.headers.get_list("x-request-id") == ["through-haproxy"]


async def test_leaving_a_stream_stops_its_generation(fast: ServedApp) -> None:
    stream = await fast.openai.chat.completions.create(
        model="fast",
        messages=[{"role": "user", "content": "go on"}],
        max_tokens=60_000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await fast.until_generating(1)
    await stream.close()
    await fast.until_idle(ABORTED_WITHIN_S)


async def test_leaving_an_unstreamed_request_stops_its_generation(fast: ServedApp) -> None:
    request = asyncio.create_task(fast.post(chat("fast", 60_000)))
    await fast.until_generating(1)
    request.cancel()
    await asyncio.wait([request])
    await fast.until_idle(ABORTED_WITHIN_S)


async def test_errors_keep_their_status_and_retry_headers(fast: ServedApp) -> None:
    with pytest.raises(openai.NotFoundError):
        await fast.openai.chat.completions.create(model="slow", messages=[{"role": "user", "content": "hi"}])
    # The engine has 32 places and each router 4 to wait; but in a burst a router may ask for places that the other has
    # taken since the last report, and holds what finds none.
    requests = [asyncio.create_task(fast.post(chat("fast", 60_000))) for _ in range(2 * (32 + 4) + 18)]
    try:
        async with asyncio.timeout(30.0):
            first = [await answer for answer in itertools.islice(asyncio.as_completed(requests), 10)]
    finally:
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
    assert {answer.status_code for answer in first} == {429}, "the others are admitted, and take ten minutes"
    assert all(int(answer.headers["retry-after-ms"]) >= 1 for answer in first)
    await fast.until_idle(ABORTED_WITHIN_S)


async def test_scrapes_show_both_routers_whichever_answers(fast: ServedApp) -> None:
    answers = await asyncio.gather(*(fast.stream(chat("fast", 20)) for _ in range(16)))
    assert all(answer.complete for answer in answers)
    await fast.until_idle(5.0)
    pages = [await fast.scrape() for _ in range(6)]
    assert all(len(page.labels("replica", "serve_app_requests_total")) == 2 for page in pages)
    assert len({page.total("serve_app_output_tokens_total") for page in pages}) == 1


async def test_client_that_does_not_read_is_cut_at_its_bound_and_slows_nobody(fast: ServedApp) -> None:
    before = (await fast.scrape()).total("serve_app_requests_total", outcome="client_too_slow")
    # Log-probabilities make about 2 kB of each token: the sockets' buffers are full after some seconds.
    connection = await unread_stream(fast.url, chat("fast", 60_000, n=4, logprobs=True, top_logprobs=20))
    try:
        answers = await asyncio.gather(*(fast.stream(chat("fast", 50)) for _ in range(10)))
        assert all(answer.complete for answer in answers)

        async def cut() -> bool:
            page = await fast.scrape()
            return page.total("serve_app_requests_total", outcome="client_too_slow") == before + 1

        await eventually_async(cut, CUT_WITHIN_S, "the stream is cut")
        await fast.until_idle(ABORTED_WITHIN_S)
    finally:
        connection.close()
