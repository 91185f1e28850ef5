"""The simulator's clients retry as the OpenAI SDK does, and count what reaches them."""

from __future__ import annotations

import random

import httpx
import openai
import pytest
from openai import OpenAI
from openai._constants import DEFAULT_MAX_RETRIES, INITIAL_RETRY_DELAY, MAX_RETRY_DELAY

from benchmarks.overload import clients
from benchmarks.overload.clients import Client, Refusal, retry_delay_s
from benchmarks.overload.event_loop import EventLoop
from benchmarks.overload.jobs import Ask, Request

REFUSALS = [
    Refusal(429),
    Refusal(503, 7.5),
    Refusal(503, 0.0),
    Refusal(429, 119.0),
    Refusal(429, 121.0),
    Refusal(500),
    Refusal(404),
    Refusal(400, None, True),
    Refusal(503, 3.0, False),
    Refusal(408),
]


def test_constants_are_the_sdks() -> None:
    assert (DEFAULT_MAX_RETRIES, INITIAL_RETRY_DELAY, MAX_RETRY_DELAY) == (
        clients.MAX_RETRIES,
        clients.INITIAL_RETRY_DELAY_S,
        clients.MAX_RETRY_DELAY_S,
    )


@pytest.fixture(scope="module")
def sdk() -> OpenAI:
    return OpenAI(api_key="none", base_url="http://127.0.0.1:1")


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("retries_taken", [0, 1, 2])
def test_delays_are_those_of_the_sdk_itself(sdk, refusal, retries_taken, monkeypatch) -> None:
    monkeypatch.setattr("openai._base_client.random", lambda: 0.4)
    headers = {}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(refusal.retry_after_s)
    if refusal.should_retry is not None:
        headers["x-should-retry"] = "true" if refusal.should_retry else "false"
    response = httpx.Response(refusal.status, headers=headers)
    expected = None
    if retries_taken < sdk.max_retries and sdk._should_retry(response):
        options = openai._models.FinalRequestOptions(method="post", url="/")
        expected = sdk._calculate_retry_timeout(sdk.max_retries - retries_taken, options, response.headers)

    class Rng(random.Random):
        def random(self) -> float:
            return 0.4

    assert retry_delay_s(refusal, retries_taken, 2, Rng()) == expected


class Server:
    """Refuses or ignores; notes when requests came."""

    def __init__(self, loop: EventLoop, refusal: Refusal | None) -> None:
        self.loop = loop
        self.refusal = refusal
        self.offered_at: list[float] = []
        self.left_at: list[float] = []
        self.requests: list[Request] = []

    def offered(self, request: Request) -> None:
        self.offered_at.append(self.loop.now)
        self.requests.append(request)
        if self.refusal is not None:
            request.client.send_refusal(request, self.refusal)

    def left(self, request: Request) -> None:
        self.left_at.append(self.loop.now)


def start(refusal: Refusal | None, patience_s: float | None = None) -> tuple[EventLoop, Server, Ask]:
    loop = EventLoop()
    server = Server(loop, refusal)
    client = Client(loop, server, random.Random(1), patience_s=patience_s)
    ask = Ask(0, 0.0, 10, 5)
    loop.at(0.0, client.ask, ask)
    return loop, server, ask


def test_a_refused_client_comes_back_exactly_after_retry_after_and_gives_up_after_two_retries() -> None:
    loop, server, ask = start(Refusal(429, 4.0))
    loop.run(100.0)
    assert server.offered_at == [0.0, 4.0, 8.0]
    assert len(ask.requests) == 3
    assert ask.completed_at is None


def test_an_impatient_client_hangs_up_and_tries_again() -> None:
    loop, server, _ = start(None, patience_s=10.0)
    loop.run(100.0)
    assert len(server.offered_at) == 3
    assert server.left_at[0] == 10.0
    assert 10.375 <= server.offered_at[1] <= 10.5


def test_a_first_token_ends_the_clients_patience() -> None:
    loop, server, _ = start(None, patience_s=10.0)
    loop.run(9.0)
    server.requests[0].client.send_tokens(server.requests[0], 0, 1)
    loop.run(100.0)
    assert len(server.offered_at) == 1


def test_lost_and_repeated_tokens_are_counted_by_their_index() -> None:
    loop, server, ask = start(None)
    loop.run(0.0)
    request = server.requests[0]
    request.client.send_tokens(request, 0, 2)
    request.client.send_tokens(request, 1, 2)
    request.client.send_tokens(request, 4, 1)
    request.client.send_end(request)
    loop.run(1.0)
    assert (request.repeated, request.lost, request.received) == (1, 1, 5)
    assert request.completed
    assert ask.completed_at == 0.0


def test_a_stream_that_breaks_loses_its_rest_and_is_not_retried() -> None:
    loop, server, _ = start(None)
    loop.run(0.0)
    request = server.requests[0]
    request.client.send_tokens(request, 0, 2)
    request.client.send_refusal(request, Refusal(503))
    loop.run(100.0)
    assert (request.status, request.lost) == (200, 3)
    assert len(server.offered_at) == 1
