"""More requests than engines can run: a bounded queue, refusals that say when to come back, caps that hold."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

from tests.support.served_app import ServedApp, chat


async def test_full_queue_refuses_with_429_and_says_when_to_come_back(narrow: ServedApp) -> None:
    answers = await asyncio.gather(*(narrow.post(chat("narrow", 50)) for _ in range(12)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 4 <= len(answers) - len(refused) < 12
    for answer in refused:
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert error["code"] == "queue_full"
        assert error.keys() == {"message", "type", "param", "code"}
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1
        assert answer.headers["x-should-retry"] == "true"
    assert len({answer.headers["retry-after-ms"] for answer in refused}) > 1, "the advice is not jittered"
    await narrow.until_idle(5.0)


async def test_sdk_without_retries_raises_rate_limit_error_at_once(narrow: ServedApp) -> None:
    long = [asyncio.create_task(narrow.stream(chat("narrow", 150))) for _ in range(4)]
    await narrow.until_generating(2)
    asked_at = time.monotonic()
    with pytest.raises(openai.RateLimitError) as caught:
        await narrow.openai.chat.completions.create(
            model="narrow", messages=[{"role": "user", "content": "now?"}], max_tokens=5
        )
    assert time.monotonic() - asked_at < 2.0, "refused at once, not after a place became free in 3 s"
    assert caught.value.code == "queue_full"
    assert float(caught.value.response.headers["retry-after"]) >= 1
    assert all(answer.complete for answer in await asyncio.gather(*long))


async def test_sdk_with_retries_gets_its_answer_after_a_refusal(narrow: ServedApp) -> None:
    long = [asyncio.create_task(narrow.stream(chat("narrow", 60))) for _ in range(4)]
    await narrow.until_generating(2)
    retrying = narrow.openai.with_options(max_retries=8)
    answer = await retrying.chat.completions.create(
        model="narrow", messages=[{"role": "user", "content": "now?"}], max_tokens=5
    )
    assert answer.choices[0].message.content
    assert all(answer.complete for answer in await asyncio.gather(*long))
    page = await narrow.scrape()
    assert page.total("serve_app_requests_total", outcome="queue_full") >= 1


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
    assert max(running) == 2, "max_ongoing_requests of the engine deployment is 2, though max_concurrency is 8"
    assert max(waiting) > 10


async def test_router_is_given_no_more_requests_than_its_max_ongoing_requests(gated: ServedApp) -> None:
    answers = await asyncio.gather(*(gated.post(chat("gated", 10)) for _ in range(16)))
    assert [answer.status_code for answer in answers] == [200] * 16, "with a fifth request the router's queue is full"
