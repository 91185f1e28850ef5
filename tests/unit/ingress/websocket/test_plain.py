from __future__ import annotations

from typing import Any

import pytest

from serve_app.core.errors import ContextLengthExceeded, QueueFull
from serve_app.core.events import Accepted, TokenDelta
from serve_app.core.request import Priority
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.websocket.config import WebSocketConfig
from tests.support.fake_router import FakeRouter, Hang, Silence, fail, speak
from tests.unit.ingress.websocket.client import PLAIN_SOCKET, SocketClient, text_of


def plain(router: FakeRouter, **options: Any) -> SocketClient:
    return SocketClient(router, PLAIN_SOCKET, **options)


async def test_a_prompt_is_answered_by_tokens_and_done_and_nothing_else(router: FakeRouter) -> None:
    async with plain(router) as client:
        client.say({"prompt": "hello"})
        assert await client.hear_until("done") == [
            {"type": "token", "content": "Hel"},
            {"type": "token", "content": "lo"},
            {"type": "done"},
        ]
    (request,) = router.requests
    assert request.prompt.messages == ({"role": "user", "content": "hello"},)
    assert request.model == "test-model"


async def test_model_and_length_can_be_given(router: FakeRouter) -> None:
    router.model_ids = ("test-model", "other")
    async with plain(router, headers={"Authorization": "Bearer key", "X-Priority": "batch"}) as client:
        client.say({"prompt": "hello", "max_tokens": 5, "model": "other"})
        await client.hear_until("done")
    (request,) = router.requests
    assert (request.model, request.sampling.max_tokens, request.priority) == ("other", 5, Priority.BATCH)
    assert request.tenant != "anonymous"


async def test_prompts_without_an_id_are_answered_one_after_the_other() -> None:
    router = FakeRouter([speak(*"aaa"), speak(*"bbb")])
    async with plain(router) as client:
        client.say({"prompt": "1"})
        client.say({"prompt": "2"})
        first, second = await client.hear_until("done"), await client.hear_until("done")
    assert [text_of(first), text_of(second)] == ["aaa", "bbb"]


async def test_prompts_with_ids_are_answered_at_the_same_time_and_echo_them() -> None:
    router = FakeRouter([[[Accepted(1, [1]), TokenDelta(0, 0, 1, "x", [1])], Hang()], speak("y")])
    async with plain(router) as client:
        client.say({"prompt": "1", "id": "slow"})
        client.say({"prompt": "2", "id": "fast"})
        heard = await client.hear_until("done")
    assert heard[-1] == {"type": "done", "id": "fast"}
    assert [text_of(heard, "slow"), text_of(heard, "fast")] == ["x", "y"]


async def test_waiting_is_silent(router: FakeRouter) -> None:
    router.scripts = [[Silence(3), Silence(2), *speak("hi")]]
    async with plain(router) as client:
        client.say({"prompt": "hello"})
        assert [message["type"] for message in await client.hear_until("done")] == ["token", "done"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "max_tokens": "5"}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "model": "none"}, "model"),
        ({"prompt": "x", "speed": 1}, "speed"),
    ],
)
async def test_what_is_wrong_gets_an_error_that_names_the_field(
    router: FakeRouter, message: dict[str, Any] | str, param: str | None
) -> None:
    async with plain(router) as client:
        client.say(message)
        answer = await client.hear()
        assert (answer["type"], answer["error"]["param"]) == ("error", param)
        client.say({"prompt": "hello"})
        assert text_of(await client.hear_until("done")) == "Hello"


async def test_an_overlong_prompt_names_the_prompt_and_its_id(router: FakeRouter) -> None:
    router.scripts = [fail(ContextLengthExceeded("too long"))]
    async with plain(router) as client:
        client.say({"prompt": "hello", "id": "a"})
        answer = await client.hear()
    assert (answer["id"], answer["error"]["param"]) == ("a", "prompt")


async def test_refusals_say_when_to_come_back(router: FakeRouter) -> None:
    router.scripts = [fail(QueueFull("full", 2.0))]
    async with plain(router) as client:
        client.say({"prompt": "hello"})
        answer = await client.hear()
    assert (answer["error"]["code"], answer["retry_after_ms"]) == ("queue_full", 2000)
    assert "id" not in answer


async def test_an_id_in_use_and_too_many_prompts_are_refused() -> None:
    router = FakeRouter([[[Accepted(1, [1])], Hang()]])
    async with plain(router, config=IngressConfig(websocket=WebSocketConfig(max_requests=2))) as client:
        client.say({"prompt": "1", "id": "a"})
        client.say({"prompt": "2", "id": "a"})
        assert (await client.hear())["error"]["code"] == "id_in_use"
        client.say({"prompt": "3"})
        client.say({"prompt": "4"})
        assert (await client.hear())["error"]["code"] == "queue_full"


async def test_leaving_ends_what_runs_and_drops_what_waits() -> None:
    router = FakeRouter([[[Accepted(1, [1]), TokenDelta(0, 0, 1, "x", [1])], Hang()]])
    async with plain(router) as client:
        client.say({"prompt": "1"})
        client.say({"prompt": "2"})
        await client.hear()
    assert [stream.closed for stream in router.streams] == [True]
