"""What an answered request leaves behind: nothing that waits for the garbage collector.

Python looks at objects that lived as long as a stream after millions of allocations: what a cycle keeps until then, as
the text of every stream, looks like a leak.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, speak
from tests.support.reference_cycles import left_in_cycles
from tests.unit.ingress.requests import CHAT, chat_body

RESUMABLE = (b"x-stream-resume", b"true")


@pytest.mark.parametrize("headers", [(), (RESUMABLE,)])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answered_request_leaves_no_cycles(headers: tuple[tuple[bytes, bytes], ...], stream: bool) -> None:
    requests = 10
    router = FakeRouter([speak(*"abc") for _ in range(requests + 1)])
    api = build_api(lambda: router, IngressConfig())
    body = json.dumps(chat_body(stream=stream)).encode()
    path = {"path": CHAT, "raw_path": CHAT.encode(), "query_string": b""}

    async def ask() -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nothing comes")

        async def send(message: Any) -> None:
            pass

        await api({"type": "http", "method": "POST", "headers": list(headers), **path}, receive, send)

    await ask()
    with left_in_cycles() as left:
        for _ in range(requests):
            await ask()
        await asyncio.sleep(0.01)
    assert not left
