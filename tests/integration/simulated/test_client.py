"""The clients against the application: cut at every token they end with the same text, and what they leave is ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serve_app.client.async_client import AsyncClient
from serve_app.client.chat_request import AskOptions
from serve_app.client.errors import RequestRejected
from serve_app.client.streaming_map import Source
from serve_app.client.sync_client import Client
from serve_app.engine.simulated.config import SimulatedEngineConfig
from tests.integration.simulated.applications import PAIR
from tests.support.fault_proxy import FaultProxy, after_nth, never
from tests.support.node import run_with_client
from tests.support.served_app import API_KEY, ServedApp
from tests.support.simulated_answers import whole_answer

TOKENS = 100
AT_ONCE = 10
EVENT_END = b"\n\n"
ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""

_BETA = next(
    SimulatedEngineConfig.model_validate(each["engine"]) for each in PAIR["args"]["models"] if each["id"] == "beta"
)


def prompt(number: int) -> str:
    return f"Tell me saga number {number}."


def options(seed: int, tokens: int = TOKENS) -> AskOptions:
    """Log-probabilities give each token an event of its own, text or not."""
    extra = {"ignore_eos": True, "logprobs": True}
    return {"model": "beta", "max_tokens": tokens, "temperature": 1.0, "seed": seed, "extra": extra}


def expected(number: int, tokens: int = TOKENS) -> str:
    """The uncut answer to `prompt(number)` with `options(number)`."""
    messages = [{"role": "user", "content": prompt(number)}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": tokens, "temperature": 1.0, "seed": number}
    return whole_answer(_BETA, body).text


@asynccontextmanager
async def cutting(app: ServedApp, position: int, further_bytes: int = 0) -> AsyncIterator[tuple[str, FaultProxy]]:
    """The application's URL behind a proxy that cuts the first answer after `position` tokens."""
    target = urlsplit(app.url)
    assert target.hostname is not None and target.port is not None
    # The role's event comes before the first token.
    plans = [after_nth(EVENT_END, position + 1, further_bytes), never]
    async with FaultProxy(target.hostname, target.port, plans) as proxy:
        yield f"http://127.0.0.1:{proxy.port}{target.path}", proxy


@pytest.mark.parametrize("further_bytes", [0, 60], ids=["after each token", "within each token"])
async def test_cut_at_every_position_of_an_answer(pair: ServedApp, further_bytes: int) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def equal(position: int) -> bool:
        async with turns, cutting(pair, position, further_bytes) as (url, proxy), AsyncClient(url, API_KEY) as client:
            answer = await client.ask(prompt(position), **options(position))
            assert (proxy.cuts, answer.reconnects, answer.finish_reason) == (1, 1, "length")
            assert answer.usage is not None
            assert answer.usage.completion_tokens == TOKENS
            return answer.text == expected(position)

    texts = await asyncio.gather(*(equal(position) for position in range(TOKENS)))
    print(f"equal: {sum(texts)}/{TOKENS}")
    assert all(texts)


async def test_the_blocking_client_goes_on_after_cuts_too(pair: ServedApp) -> None:
    def ask(url: str) -> list[tuple[str, int | None]]:
        with Client(url, API_KEY) as client:
            return [(token.text, token.position) for token in client.stream(prompt(7), **options(7))]

    for position in (0, 1, 50, 99):
        async with cutting(pair, position) as (url, proxy):
            tokens = await asyncio.to_thread(ask, url)
            assert "".join(text for text, _ in tokens) == expected(7)
            assert tokens[-1] == ("", TOKENS)
            assert proxy.cuts == 1


async def test_the_javascript_client_goes_on_after_cuts_too(pair: ServedApp) -> None:
    source = """
        const options = { model: "beta", max_tokens: 100, temperature: 1, seed: 9, ignore_eos: true, logprobs: true };
        report(await client.ask("Tell me saga number 9.", options));
    """
    for position in (0, 1, 50, 99):
        async with cutting(pair, position) as (url, proxy):
            answer = await run_with_client(url, source, f"{{ apiKey: '{API_KEY}' }}")
            assert (answer["text"], answer["reconnects"], proxy.cuts) == (expected(9), 1, 1)


async def test_a_map_over_prompts_loses_nothing_when_connections_are_cut_at_random(pair: ServedApp) -> None:
    target, dice = urlsplit(pair.url), random.Random(11)
    assert target.hostname is not None and target.port is not None
    plans = [after_nth(EVENT_END, dice.randint(1, 40), dice.randint(0, 90)) for _ in range(120)]
    async with FaultProxy(target.hostname, target.port, [*plans, never]) as proxy:
        url = f"http://127.0.0.1:{proxy.port}{target.path}"
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(limits=limits, trust_env=False) as http:
            client = AsyncClient(url, API_KEY, http=http)

            async def ask(number: int) -> str:
                return (await client.ask(prompt(number), **options(number, 40))).text

            results = [result async for result in Source(range(100)).map_async(ask, parallelism=40, progress=False)]
    assert [result.unwrap() for result in results] == [expected(number, 40) for number in range(100)]
    assert proxy.cuts > 50


async def test_leaving_ends_the_generation_at_once_although_it_could_be_resumed(pair: ServedApp) -> None:
    async with AsyncClient(pair.url, API_KEY) as client:
        async with client.stream("A long one.", **options(1, 5000)) as stream:
            async for token in stream:
                if token.position is not None and token.position >= 3:
                    break
        await pair.until_idle(ABORTED_WITHIN_S)


async def test_what_the_application_refuses_is_told_by_its_own_words(pair: ServedApp) -> None:
    async with AsyncClient(pair.url, API_KEY) as client:
        assert await client.models() == ["alpha", "beta"]
        with pytest.raises(RequestRejected) as raised:
            await client.ask("Hello", model="beta", max_tokens=100_000)
        assert raised.value.status == 400
        with pytest.raises(RequestRejected, match="model_not_found"):
            await client.ask("Hello", model="gamma")
