from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message

from serve_app.core.errors import ClientTooSlow
from serve_app.core.events import Accepted, TokenDelta
from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, FakeStream, Hang
from tests.unit.ingress.requests import CHAT, chat_body


class Exchange:
    """One request on a raw ASGI connection that stays open until the client leaves."""

    def __init__(self, router: FakeRouter, stream: bool, write_stall_s: float = 60.0) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._body = [json.dumps(chat_body(stream=stream)).encode()]
        api = build_api(lambda: router, IngressConfig(write_stall_s=write_stall_s), clock=router.clock)
        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        self.task = asyncio.create_task(api(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)


@pytest.fixture
def hanging() -> FakeRouter:
    """Says one token and then nothing for ever."""
    return FakeRouter([[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]])


async def opened(router: FakeRouter) -> FakeStream:
    """The router's first stream, once its reader waits for the event that never comes."""
    await router.opened.wait()
    await router.streams[0].waiting.wait()
    return router.streams[0]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_stream_is_closed_when_the_client_leaves(hanging: FakeRouter, stream: bool) -> None:
    exchange = Exchange(hanging, stream)
    engine_stream = await opened(hanging)
    exchange.left.set()
    await exchange.task
    assert engine_stream.closed
    assert len(exchange.sent) == (2 if stream else 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_stream_is_closed_when_the_host_cancels_the_request(hanging: FakeRouter, stream: bool) -> None:
    exchange = Exchange(hanging, stream)
    engine_stream = await opened(hanging)
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert engine_stream.closed


async def test_closing_is_not_cut_short_by_a_second_cancellation(hanging: FakeRouter) -> None:
    """Ray Serve cancels the request at the same disconnect that we notice ourselves."""
    exchange = Exchange(hanging, stream=True)
    engine_stream = await opened(hanging)
    engine_stream.close_allowed.clear()
    exchange.left.set()
    await engine_stream.closing.wait()
    exchange.task.cancel()
    await asyncio.sleep(0)
    assert not exchange.task.done()
    engine_stream.close_allowed.set()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert engine_stream.closed


async def test_a_client_that_reads_nothing_is_cut() -> None:
    router = FakeRouter([[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])]]])
    exchange = Exchange(router, stream=True, write_stall_s=0.01)
    exchange.reads.clear()
    await exchange.task
    assert router.streams[0].closed
    assert exchange.sent == []


async def test_a_client_too_slow_for_its_buffer_is_not_waited_for_with_the_error() -> None:
    router = FakeRouter([[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]])
    exchange = Exchange(router, stream=True, write_stall_s=0.01)
    engine_stream = await opened(router)
    exchange.reads.clear()
    engine_stream.fail(ClientTooSlow("too slow"))
    await exchange.task
    assert engine_stream.closed
