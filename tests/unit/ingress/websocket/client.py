"""A WebSocket client of the API in this process: a bare ASGI connection, no sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.types import Message

from serve_app.ingress.api import build_api
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.identity import AnyToken, Authenticator
from tests.support.fake_router import FakeRouter
from tests.unit.ingress.requests import chat_body

CHAT_SOCKET = "/v1/ws/chat"
PLAIN_SOCKET = "/ws/chat"


_ANSWERS_WITHIN = 3
"""Turns of the event loop in which a client may answer before the server goes on after a message."""


class SocketClient:
    """Leaves at the end of its `async with` block, when the application has ended, too."""

    def __init__(
        self,
        router: FakeRouter,
        path: str = CHAT_SOCKET,
        *,
        headers: dict[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        config: IngressConfig | None = None,
        authenticator: Authenticator | None = None,
        account: BytesUnderWay | None = None,
    ) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.accepted: Message = {}
        self.closed: Message | None = None
        self.sent: list[dict[str, Any]] = []
        self.breaks = False
        """Whether sending fails from now on."""
        self.under_way = 0
        """Messages that the server is sending now."""
        self._to_server: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._to_server.put_nowait({"type": "websocket.connect"})
        self._to_client: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        api = build_api(
            lambda: router, config or IngressConfig(), authenticator or AnyToken(), account, clock=router.clock
        )
        scope = {
            "type": "websocket",
            "path": path,
            "root_path": "",
            "scheme": "ws",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "subprotocols": list(subprotocols),
        }
        self.task = asyncio.create_task(api(scope, self._give, self._take))

    async def _give(self) -> Message:
        message = await self._to_server.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _take(self, message: Message) -> None:
        self.under_way += 1
        try:
            await self.reads.wait()
        finally:
            self.under_way -= 1
        if self.breaks:
            raise OSError("the connection is lost")
        if message["type"] == "websocket.accept":
            self.accepted = message
        elif message["type"] == "websocket.close":
            self.closed = message
        else:
            document = json.loads(message["text"])
            self.sent.append(document)
            self._to_client.put_nowait(document)
            for _ in range(_ANSWERS_WITHIN):
                await asyncio.sleep(0)

    def say(self, message: dict[str, Any] | str | bytes) -> None:
        """Send a message: an object as JSON, text and bytes as they are."""
        if isinstance(message, bytes):
            self._to_server.put_nowait({"type": "websocket.receive", "bytes": message})
        else:
            text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
            self._to_server.put_nowait({"type": "websocket.receive", "text": text})

    def ask(self, client_id: str, body: dict[str, Any] | None = None, **fields: Any) -> None:
        """Send a chat request; `body` adds to an ordinary one."""
        self.say({"type": "request", "id": client_id, "body": chat_body(**(body or {})), **fields})

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(5.0):
            return await self._to_client.get()

    async def hear_until(self, *kinds: str) -> list[dict[str, Any]]:
        """All messages up to the first of these kinds."""
        heard = [await self.hear()]
        while heard[-1]["type"] not in kinds:
            heard.append(await self.hear())
        return heard

    def leave(self) -> None:
        """Close the connection."""
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def fail(self) -> None:
        """Let the server's receiving side fail."""
        self._to_server.put_nowait(OSError("the connection is lost"))

    async def ended(self) -> None:
        """Wait for the application's end."""
        async with asyncio.timeout(5.0):
            await asyncio.wait([self.task])
        self.task.result()

    async def __aenter__(self) -> SocketClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.reads.set()
        self.leave()
        if kind is None:
            await self.ended()
        else:
            self.task.cancel()


def text_of(messages: list[dict[str, Any]], client_id: str | None = None) -> str:
    """The joined tokens, of one request if it is given."""
    tokens = [message for message in messages if message["type"] == "token"]
    return "".join(token["content"] for token in tokens if client_id is None or token["id"] == client_id)
