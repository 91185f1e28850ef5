"""A client of an ASGI application in this process that can leave in the middle of an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message


async def read_events(
    api: ASGIApp,
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    leave_after: int | None = None,
) -> list[str]:
    """The blocks of the event stream that answers; the client leaves when it has `leave_after` of them.

    Fails when the status is not 200.
    """
    parts = urlsplit(url)
    given = {"content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    received = bytearray()
    statuses: list[int] = []
    sent = False
    left = asyncio.Event()

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            return
        received.extend(message.get("body", b""))
        if leave_after is not None and received.count(b"\n\n") >= leave_after:
            left.set()

    await api(scope, receive, send)
    assert statuses == [200], (statuses, received)
    return received.decode().split("\n\n")[:-1][:leave_after]
