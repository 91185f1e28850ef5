"""More requests than engines can run: a bounded queue, refusals that say when to come back, caps that hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat
from tests.support.sse_client import StreamedAnswer

NOW: dict[str, Any] = {"model": "narrow", "messages": [{"role": "user", "content": "now?"}], "max_tokens": 5}


@asynccontextmanager
async def no_room(
    app: ServedApp, tokens: int = 4000, answers: Sequence[StreamedAnswer | None] = (None,) * 4
) -> AsyncIterator[None]:
    """Two streams of so many tokens run and two more wait: that is all that `narrow` takes."""
    streams = [asyncio.create_task(app.stream(chat("narrow", tokens), answer)) for answer in answers]

    async def full() -> bool:
        return (await app.scrape()).total("serve_app_queue_depth") == 2

    try:
        await eventually_async(full, 10.0, "two requests wait")
        yield
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.wait(streams)
        await app.until_idle(5.0)


async def test_full_queue_refuses_with_429_and_says_when_to_come_back(narrow: ServedApp) -> None:
    async with no_room(narrow):
        answers = await asyncio.gather(*(narrow.post(NOW) for _ in range(6)))
    for answer in answers:
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert error["code"] == "queue_full"
        assert error.keys() == {"message", "type", "param", "code"}
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1
        assert answer.headers["x-should-retry"] == "true"
    assert len({answer.headers["retry-after-ms"] for answer in answers}) > 1, "the advice is not jittered"


async def test_sdk_without_retries_raises_rate_limit_error_at_once(narrow: ServedApp) -> None:
    async with no_room(narrow):
        asked_at = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            await narrow.openai.chat.completions.create(**NOW)
        assert time.monotonic() - asked_at < 5.0, "refused, and not after 80 s, when a place becomes free"
    assert caught.value.code == "queue_full"
    assert float(caught.value.response.headers["retry-after"]) >= 1


async def test_sdk_with_retries_gets_its_answer_after_a_refusal(narrow: ServedApp) -> None:
    before = await narrow.scrape()
    retrying = narrow.openai.with_options(max_retries=8)
    async with no_room(narrow, tokens=100):
        answer = await retrying.chat.completions.create(**NOW)
    assert answer.choices[0].message.content
    after = await narrow.scrape()
    refused = [page.total("serve_app_requests_total", outcome="queue_full") for page in (before, after)]
    assert refused[1] > refused[0]


async def test_tenant_below_its_fair_share_takes_a_place_of_one_above_it(narrow: ServedApp) -> None:
    answers: list[StreamedAnswer] = [StreamedAnswer() for _ in range(4)]
    async with no_room(narrow, tokens=150, answers=answers):
        served = await narrow.post(NOW, authorization="Bearer another")
    assert served.status_code == 200
    refused = [answer.error for answer in answers if answer.error is not None]
    assert [error["code"] for error in refused] == ["queue_full"], "one of the two that waited"


async def test_wait_mode_lets_everyone_stand_in_line(patient: ServedApp) -> None:
    answers = await asyncio.gather(*(patient.post(chat("patient", 10)) for _ in range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12


async def test_engine_never_runs_more_generations_than_serve_allows(patient: ServedApp) -> None:
    requests = [asyncio.create_task(patient.stream(chat("patient", 8))) for _ in range(50)]
    running, waiting = [0.0], [0.0]
    while not all(request.done() for request in requests):
        page = await patient.scrape()
        running.append(page.total("serve_app_engine_generations"))
        waiting.append(page.total("serve_app_queue_depth"))
        await asyncio.sleep(0.05)
    assert all(request.result().complete for request in requests)
    assert (await patient.scrape()).total("serve_app_engine_capacity") == 2
    assert max(running) == 2, "max_ongoing_requests of the engine deployment is 2, though max_concurrency is 8"
    assert max(waiting) > 10


async def test_router_is_given_no_more_requests_than_its_max_ongoing_requests(gated: ServedApp) -> None:
    answers = await asyncio.gather(*(gated.post(chat("gated", 10)) for _ in range(16)))
    assert [answer.status_code for answer in answers] == [200] * 16, "with a fifth request the router's queue is full"
