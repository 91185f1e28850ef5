"""A client that asks for a stream and does not read it."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

_RECEIVE_BUFFER_BYTES = 4096


async def unread_stream(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which a streamed answer has begun; the caller reads it if it likes, and closes it."""
    target = urlsplit(url)
    assert target.hostname is not None
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, (target.hostname, target.port))
        data = json.dumps({**body, "stream": True}).encode()
        head = f"POST {target.path}/v1/chat/completions HTTP/1.1\r\nHost: {target.netloc}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        await loop.sock_sendall(connection, head.encode() + data)
        begin = await loop.sock_recv(connection, 100)
    except BaseException:
        connection.close()
        raise
    if not begin.startswith(b"HTTP/1.1 200"):
        connection.close()
        raise AssertionError(f"the stream did not begin: {begin!r}")
    return connection
