"""Errors that only a running system can give, as OpenAI's client sees them."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.support.served_app import ServedApp, chat


async def test_model_that_does_not_come_up_is_a_503_with_advice(gated: ServedApp) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await gated.openai.chat.completions.create(
            model="comatose", messages=[{"role": "user", "content": "wake up"}], max_tokens=5
        )
    assert caught.value.status_code == 503
    assert caught.value.code == "no_engine_available"
    assert float(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.response.headers["x-should-retry"] == "true"


async def test_deadline_before_the_first_token_is_a_504(narrow: ServedApp) -> None:
    running = [asyncio.create_task(narrow.stream(chat("narrow", 4000))) for _ in range(2)]
    await narrow.until_generating(2)
    with pytest.raises(openai.InternalServerError) as caught:
        await narrow.openai.chat.completions.create(
            model="narrow",
            messages=[{"role": "user", "content": "quick"}],
            max_tokens=5,
            extra_headers={"X-Deadline-Ms": "300"},
        )
    assert caught.value.status_code == 504
    assert caught.value.code == "deadline_exceeded"
    for stream in running:
        stream.cancel()
    await asyncio.wait(running)


async def test_deadline_in_the_middle_of_a_stream_is_an_error_event(pair: ServedApp) -> None:
    stream = await pair.openai.chat.completions.create(
        model="alpha",
        messages=[{"role": "user", "content": "go on"}],
        max_tokens=4000,
        stream=True,
        extra_headers={"X-Deadline-Ms": "1500"},
        extra_body={"ignore_eos": True},
    )
    received = ""
    with pytest.raises(openai.APIError) as caught:
        async for chunk in stream:
            received += chunk.choices[0].delta.content or ""
    assert received
    assert caught.value.code == "deadline_exceeded"
    await pair.until_idle(2.0)


async def test_request_ids_are_echoed_once(pair: ServedApp) -> None:
    given = await pair.post(chat("beta", 2), x_request_id="my-id-42")
    assert given.headers.get_list("x-request-id") == ["my-id-42"]
    made = await pair.post(chat("beta", 2))
    assert len(made.headers.get_list("x-request-id")) == 1
    refused = await pair.post({"model": "beta"}, x_request_id="my-id-43")
    assert refused.status_code == 400
    assert refused.headers.get_list("x-request-id") == ["my-id-43"]
