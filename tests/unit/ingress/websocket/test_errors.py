"""What a client of the chat socket is told when it or the server is wrong, and the bounds of a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.core.errors import ContextLengthExceeded, EngineLost, QueueFull
from serve_app.core.events import Accepted
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.websocket.config import WebSocketConfig
from tests.support.fake_router import FakeRouter, fail
from tests.unit.ingress.websocket.client import SocketClient, text_of

# --- errors


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ('{"type":"request","id":"a","body":' + "[" * 2_000, None, "invalid_json"),
        ("[1]", None, "invalid_type"),
        (b"{}", None, "invalid_type"),
        ({}, "type", "missing_required_parameter"),
        ({"type": "shout"}, "type", "invalid_value"),
        ({"type": "request", "id": "a"}, "body", "missing_required_parameter"),
        ({"type": "request", "id": 5, "body": {}}, "id", "invalid_type"),
        ({"type": "request", "id": "", "body": {}}, "id", "invalid_value"),
        ({"type": "request", "id": "x" * 129, "body": {}}, "id", "invalid_value"),
        ({"type": "request", "id": "a", "body": {}, "priority": "high"}, "priority", "invalid_value"),
        ({"type": "request", "id": "a", "body": {}, "timeout_ms": 0}, "timeout_ms", "invalid_value"),
        ({"type": "request", "id": "a", "body": {}, "resume": "yes"}, "resume", "invalid_type"),
        ({"type": "request", "id": "a", "body": {}, "speed": 1}, "speed", "unknown_parameter"),
        ({"type": "resume", "id": "a", "position": -1}, "position", "invalid_value"),
        ({"type": "cancel"}, "id", "missing_required_parameter"),
        ({"type": "ping", "id": 1}, "id", "invalid_type"),
    ],
)
async def test_a_malformed_message_gets_an_error_that_names_the_field_and_the_socket_goes_on(
    router: FakeRouter, message: dict[str, Any] | str | bytes, param: str | None, code: str
) -> None:
    async with SocketClient(router) as client:
        client.say(message)
        answer = await client.hear()
        assert answer["type"] == "error"
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
        assert answer["error"]["type"] == "invalid_request_error"
        assert not answer["retryable"]
        client.ask("b")
        assert text_of(await client.hear_until("done")) == "Hello"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": 5}, "body.messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "body.messages.0.content", "missing_required_parameter"),
        ({"model": "other"}, "body.model", "model_not_found"),
        ({"n": 2}, "body.n", "unsupported_value"),
        ({"shout": True}, "body.shout", "unknown_parameter"),
    ],
)
async def test_a_wrong_body_ends_its_request_with_an_error_that_names_the_field(
    router: FakeRouter, body: dict[str, Any], param: str, code: str
) -> None:
    async with SocketClient(router) as client:
        client.ask("a", body)
        answer = await client.hear()
        assert (answer["type"], answer["id"]) == ("error", "a")
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
        client.ask("a")
        assert text_of(await client.hear_until("done")) == "Hello"


async def test_a_body_that_is_no_object_names_the_body(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.say({"type": "request", "id": "a", "body": [1]})
        assert (await client.hear())["error"]["param"] == "body"


async def test_requests_that_cannot_be_read_are_counted(router: FakeRouter) -> None:
    async with SocketClient(router, headers={"X-Request-ID": "conn"}) as client:
        client.ask("a", {"n": 2})
        await client.hear()
    assert [request_id for request_id, *_ in router.turned_away_requests] == ["conn-1"]


async def test_a_refusal_says_when_to_come_back(router: FakeRouter) -> None:
    router.scripts = [fail(QueueFull("full", 1.2))]
    async with SocketClient(router) as client:
        client.ask("a")
        answer = await client.hear()
    assert answer["error"] == {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    assert (answer["id"], answer["retryable"], answer["retry_after_ms"]) == ("a", True, 1200)


async def test_an_overlong_prompt_names_the_messages(router: FakeRouter) -> None:
    router.scripts = [fail(ContextLengthExceeded("too long"))]
    async with SocketClient(router) as client:
        client.ask("a")
        assert (await client.hear())["error"]["param"] == "body.messages"


async def test_a_failure_in_the_middle_ends_only_its_request(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        for name in "ab":
            client.ask(name)
            await client.hear_until("token")
        for stream in hanging.streams:
            await stream.waiting.wait()
        hanging.streams[0].fail(EngineLost("lost"))
        answer = (await client.hear_until("error"))[-1]
        assert (answer["id"], answer["error"]["code"], answer["retryable"]) == ("a", "engine_lost", True)
        assert [stream.closed for stream in hanging.streams] == [True, False]


async def test_defects_are_told_without_their_details(router: FakeRouter) -> None:
    router.scripts = [[ValueError("secret")]]
    async with SocketClient(router) as client:
        client.ask("a")
        answer = await client.hear()
    assert answer["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(answer)


async def test_a_stream_that_ends_before_its_answer_is_an_error(router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1])]]]
    async with SocketClient(router) as client:
        client.ask("a")
        assert (await client.hear_until("error"))[-1]["error"]["code"] == "internal_error"


async def test_an_id_in_use_is_refused_and_its_request_goes_on(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a")
        await client.hear_until("token")
        client.ask("a")
        answer = await client.hear()
        assert "id" not in answer, "an error with an id would end the request"
        assert (answer["error"]["param"], answer["error"]["code"]) == ("id", "id_in_use")
        client.say({"type": "request", "id": "a"})
        assert "id" not in await client.hear()
        assert len(hanging.streams) == 1
        assert not hanging.streams[0].closed


# --- bounds


def bounded(**bounds: Any) -> IngressConfig:
    return IngressConfig(websocket=WebSocketConfig(**bounds))


async def test_requests_beyond_the_bound_of_a_socket_are_refused_until_one_ends(hanging: FakeRouter) -> None:
    async with SocketClient(hanging, config=bounded(max_requests=2)) as client:
        for name in "abc":
            client.ask(name)
        answer = (await client.hear_until("error"))[-1]
        assert (answer["id"], answer["error"]["code"], answer["retry_after_ms"]) == ("c", "queue_full", 1000)
        client.say({"type": "cancel", "id": "a"})
        await client.hear_until("done")
        client.ask("c")
        assert (await client.hear())["id"] == "c"


async def test_a_message_beyond_the_bound_gets_an_error(router: FakeRouter) -> None:
    async with SocketClient(router, config=bounded(max_message_bytes=200)) as client:
        client.say({"type": "ping", "id": "é" * 99})
        answer = await client.hear()
        assert (answer["error"]["code"], "id" in answer) == ("payload_too_large", False)
        client.say({"type": "ping", "id": "é" * 80})
        assert (await client.hear())["type"] == "pong"


async def test_malformed_messages_in_a_row_close_the_socket(router: FakeRouter) -> None:
    client = SocketClient(router, config=bounded(max_mistakes=3))
    for message in ("{", "{", {"type": "ping"}, "{", "{", "{"):
        client.say(message)
    await client.ended()
    assert [message["type"] for message in client.sent] == ["error", "error", "pong", "error", "error", "error"]
    assert client.closed is not None
    assert client.closed["code"] == 1008


async def test_pings_of_a_client_that_reads_no_pongs_close_the_socket(hanging: FakeRouter) -> None:
    async with SocketClient(hanging, config=bounded(max_unsent_replies=5)) as client:
        client.ask("a")
        await client.hear_until("token")
        client.reads.clear()
        for _ in range(10):
            client.say({"type": "ping"})
        await hanging.streams[0].closing.wait()
        client.reads.set()
        await client.ended()
        assert client.closed is not None
        assert client.closed["code"] == 1008
