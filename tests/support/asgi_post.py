"""Sends a body to an ASGI application in this process as a server hands it on: in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message

PIECE_BYTES = 64 * 1024
"""What uvicorn reads from a socket at once, at most."""


def http_scope(method: str, path: str, headers: Mapping[str, str], http_version: str = "1.1") -> dict[str, object]:
    """The scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": http_version,
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "server": ("test", 80),
        "client": ("test", 1),
        "state": {},
    }


async def post(api: ASGIApp, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of the answer."""
    scope = http_scope("POST", path, {"content-type": "application/json", **(headers or {})})
    at = 0
    status = 0
    answer = bytearray()

    async def receive() -> Message:
        nonlocal at
        if at >= len(body):
            await asyncio.Event().wait()  # the client stays until it has its answer
        piece = body[at : at + PIECE_BYTES]
        at += len(piece)
        return {"type": "http.request", "body": piece, "more_body": at < len(body)}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        answer.extend(message.get("body", b""))

    await api(scope, receive, send)
    return status, bytes(answer)
