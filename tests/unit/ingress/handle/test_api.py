from __future__ import annotations

from typing import Any

import pytest

from serve_app.core.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    PayloadTooLarge,
    QueueFull,
    StreamConflict,
)
from serve_app.core.request import Priority
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.handle.api import HandleApi, build_handle_api
from tests.support.fake_router import FakeRouter, Hang, fail, speak
from tests.unit.ingress.requests import chat_body


def serve(*scripts: Any, **bounds: Any) -> tuple[FakeRouter, HandleApi]:
    router = FakeRouter(list(scripts) or [speak("Hel", "lo")])
    return router, build_handle_api(router, IngressConfig(**bounds))


async def chunks(api: HandleApi, body: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [chunk async for chunk in api.stream_chat(body, options)]


def text(parts: list[dict[str, Any]]) -> str:
    return "".join(part["choices"][0]["delta"].get("content", "") for part in parts)


async def test_an_answer_is_the_document_of_http() -> None:
    router, api = serve()
    answer = await api.chat(chat_body(), {"tenant": "pipeline", "priority": "batch", "timeout_s": 2})
    assert answer["choices"][0]["message"]["content"] == "Hello"
    request = router.requests[0]
    assert (request.tenant, request.priority, request.timeout_s) == ("pipeline", Priority.BATCH, 2.0)
    assert router.streams[0].closed


async def test_chunks_are_those_of_http() -> None:
    router, api = serve()
    assert text(await chunks(api, chat_body())) == "Hello"
    assert router.requests[0].tenant == "anonymous"
    assert router.streams[0].closed


async def test_who_leaves_closes_the_stream() -> None:
    router, api = serve([*speak("a")[:2], Hang()])
    stream = api.stream_chat(chat_body(), {})
    await anext(stream)
    await stream.aclose()
    assert router.streams[0].closed


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"priority": "urgent"}, "priority"),
        ({"priority": 1}, "priority"),
        ({"priority": ["batch"]}, "priority"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": 1e9}, "timeout_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"timeout_s": True}, "timeout_s"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": 5}, "tenant"),
        ({"tenant": "t" * 256}, "tenant"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": b"x"}, "idempotency_key"),
        ({"urgency": 1}, "urgency"),
    ],
)
async def test_a_wrong_option_is_an_error_of_ours_that_names_it(options: dict[str, Any], param: str) -> None:
    router, api = serve()
    with pytest.raises(InvalidRequest) as caught:
        await api.chat(chat_body(), options)
    assert caught.value.param == param
    assert [code for *_, code in router.turned_away_requests] == ["invalid_value"]


async def test_bounds_are_those_of_http() -> None:
    _, api = serve(max_n=2, max_body_bytes=200)
    with pytest.raises(InvalidRequest, match="'n' may be at most 2"):
        await api.chat(chat_body(n=3), {})
    with pytest.raises(PayloadTooLarge):
        await api.chat(chat_body(user="u" * 200), {})


@pytest.mark.parametrize("body", [{"messages": object()}, [], {"model": "m", "messages": [{1, 2}]}])
async def test_a_body_that_is_no_json_is_an_error_of_ours(body: Any) -> None:
    _, api = serve()
    with pytest.raises(InvalidRequest):
        await api.chat(body, {})


async def test_refusals_of_the_router_are_raised_as_they_are() -> None:
    _, api = serve(fail(QueueFull("full", 2.0)))
    with pytest.raises(QueueFull, match="full"):
        await api.chat(chat_body(), {})
    with pytest.raises(ModelNotFound):
        await api.chat(chat_body(model="other"), {})


async def test_an_overlong_prompt_names_the_messages() -> None:
    for call in ("chat", "stream"):
        _, api = serve(fail(ContextLengthExceeded("too long")))
        with pytest.raises(ContextLengthExceeded) as caught:
            await (api.chat(chat_body(), {}) if call == "chat" else chunks(api, chat_body()))
        assert caught.value.param == "messages"


async def test_a_repeated_call_with_a_key_gets_the_same_answer() -> None:
    router, api = serve(speak("one"), speak("two"))
    options = {"idempotency_key": "k", "tenant": "t"}
    first = await api.chat(chat_body(), options)
    assert await api.chat(chat_body(), options) == first
    assert text(await chunks(api, chat_body(), **options)) == "one"
    other = await api.chat(chat_body(), {**options, "tenant": "u"})
    assert other["choices"][0]["message"]["content"] == "two"
    assert router.requests[0].retention is not None


async def test_another_request_with_the_same_key_is_a_conflict() -> None:
    _, api = serve(speak("one"))
    await api.chat(chat_body(), {"idempotency_key": "k"})
    with pytest.raises(StreamConflict):
        await api.chat(chat_body(seed=2), {"idempotency_key": "k"})


async def test_a_key_allows_one_choice() -> None:
    _, api = serve()
    with pytest.raises(InvalidRequest, match="'n' must be 1"):
        await api.chat(chat_body(n=2), {"idempotency_key": "k"})
