"""A gRPC call written byte by byte: grpcio's client refuses to send what a hostile one sends."""

from __future__ import annotations

import asyncio
import struct

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4


async def call(port: int, path: bytes, message: bytes, *metadata: tuple[bytes, bytes]) -> bytes:
    """Call `path` at a local server with one message and return what it sent until the stream's last frame."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"test"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]
    body = b"\0" + struct.pack(">I", len(message)) + message
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
    writer.write(_frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, body))
    received = b""
    try:
        async with asyncio.timeout(5.0):
            while True:
                head = await reader.readexactly(9)
                received += await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] in (_DATA, _HEADERS) and head[4] & _END_STREAM:
                    return received
    finally:
        writer.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
