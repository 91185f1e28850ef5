"""Bodies are bounded in sum, and what is accounted is given back however a request ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable

import httpx
import pytest
from starlette.types import Message

from serve_app.ingress.api import build_api
from serve_app.ingress.bytes_under_way import SHORT_BYTES, BytesUnderWay
from serve_app.ingress.config import IngressConfig
from tests.support.asgi_post import http_scope, post
from tests.support.fake_router import FakeRouter
from tests.unit.ingress.requests import CHAT, chat_body, error_of

LONG = b'{"model":"test-model","messages":[{"role":"user","content":"' + b"a" * (2 * SHORT_BYTES) + b'"}]}'


@pytest.fixture
def under_way() -> BytesUnderWay:
    return BytesUnderWay(4 * SHORT_BYTES)


class SlowSender:
    """A client that has sent a part of its body and waits."""

    def __init__(self, router: FakeRouter, under_way: BytesUnderWay) -> None:
        self._api = build_api(lambda: router, IngressConfig(), under_way=under_way)
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.statuses: list[int] = []
        self.task = asyncio.create_task(self._run())

    def sends(self, part: bytes, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": part, "more_body": more})

    def leaves(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def _run(self) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])

        scope = http_scope("POST", CHAT, {"content-type": "application/json"})
        await self._api(scope, self._messages.get, send)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_bodies_in_parts_are_accounted_and_one_too_many_is_refused_with_advice(
    router: FakeRouter, under_way: BytesUnderWay
) -> None:
    slow = SlowSender(router, under_way)
    slow.sends(LONG[:SHORT_BYTES])
    slow.sends(LONG[SHORT_BYTES : 2 * SHORT_BYTES])
    await settled()
    assert under_way.held_bytes == 2 * SHORT_BYTES
    api = build_api(lambda: router, IngressConfig(), under_way=under_way)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        refused = await http.post(CHAT, content=LONG, headers={"content-type": "application/json"})
        assert refused.status_code == 429
        assert error_of(refused)["code"] == "router_busy"
        assert float(refused.headers["retry-after-ms"]) > 0
        assert refused.headers["x-should-retry"] == "true"
        short = await http.post(CHAT, json=chat_body())
        assert short.status_code == 200
    assert [code for *_, code in router.turned_away_requests] == ["router_busy"]
    assert under_way.held_bytes == 2 * SHORT_BYTES
    slow.sends(LONG[2 * SHORT_BYTES :], more=False)
    await slow.task
    assert slow.statuses == [200]
    assert under_way.held_bytes == 0


@pytest.mark.parametrize("end", [SlowSender.leaves, lambda slow: slow.task.cancel()], ids=["leaves", "cancelled"])
async def test_who_goes_before_the_body_is_whole_holds_nothing(
    router: FakeRouter, under_way: BytesUnderWay, end: Callable[[SlowSender], object]
) -> None:
    slow = SlowSender(router, under_way)
    slow.sends(LONG[:SHORT_BYTES])
    await settled()
    assert under_way.held_bytes == SHORT_BYTES
    end(slow)
    await asyncio.gather(slow.task, return_exceptions=True)
    assert under_way.held_bytes == 0


async def test_a_running_stream_holds_nothing(hanging: FakeRouter, under_way: BytesUnderWay) -> None:
    slow = SlowSender(hanging, under_way)
    slow.sends(json.dumps(chat_body(stream=True)).encode(), more=False)
    await hanging.opened.wait()
    assert under_way.held_bytes == 0
    slow.leaves()
    await slow.task


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"other","messages":[{"role":"user","content":"a"}]}'])
async def test_a_wrong_body_holds_nothing(router: FakeRouter, under_way: BytesUnderWay, body: bytes) -> None:
    status, _ = await post(build_api(lambda: router, IngressConfig(), under_way=under_way), CHAT, body)
    assert status in (400, 404)
    assert under_way.held_bytes == 0


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
async def test_a_compressed_body_is_understood(
    http: httpx.AsyncClient, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    body = encode(json.dumps(chat_body()).encode())
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = await http.post(CHAT, content=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "Hello"


async def test_a_body_of_several_gzip_members_is_one_body(http: httpx.AsyncClient) -> None:
    body = json.dumps(chat_body()).encode()
    response = await http.post(
        CHAT,
        content=gzip.compress(body[:20]) + gzip.compress(body[20:]),
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )
    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip", "x" * 100_000])
async def test_another_encoding_is_refused_by_name(http: httpx.AsyncClient, encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = await http.post(CHAT, content=b"?", headers=headers)
    assert response.status_code == 415
    error = error_of(response)
    assert (error["param"], error["code"]) == ("Content-Encoding", "unsupported_content_encoding")
    assert encoding[:90] in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize("body", [b"{}", gzip.compress(json.dumps(chat_body()).encode())[:-9]], ids=["plain", "cut"])
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await http.post(CHAT, content=body, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["param"] == "Content-Encoding"


async def test_a_bomb_is_given_up_at_the_bound(router: FakeRouter, under_way: BytesUnderWay) -> None:
    api = build_api(lambda: router, IngressConfig(max_body_bytes=SHORT_BYTES), under_way=under_way)
    bomb = gzip.compress(b" " * (50 * SHORT_BYTES))
    status, answer = await post(api, CHAT, bomb, {"content-encoding": "gzip"})
    assert status == 413
    assert b"decompressed" in answer
    assert under_way.held_bytes == 0
