"""Hostile HTTP, byte by byte: nothing here goes through a client library that would refuse to send it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator

from benchmarks.hostile import bodies
from benchmarks.hostile.outcomes import Attack, Target

_CHAT = "/v1/chat/completions"
_PIECE = 1 << 18


def head(path: str, length: int, *headers: str, method: str = "POST") -> bytes:
    """What comes before a body of so many bytes; `headers` are further lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def request(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """An HTTP/1.1 request."""
    return head(path, len(body), *headers, method=method) + body


@contextlib.asynccontextmanager
async def connection(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is reset at the end, not closed in good order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def send(target: Target, *parts: bytes, pause_s: float = 0.0, read: int = 12) -> str:
    """Send `parts` one by one until something is answered; the status, once `read` bytes came or the answer ended."""
    async with connection(target) as (reader, writer):
        answer = asyncio.create_task(reader.readexactly(read))
        try:
            for piece in (part[at : at + _PIECE] for part in parts for at in range(0, len(part), _PIECE)):
                if answer.done():
                    break
                writer.write(piece)
                try:
                    await writer.drain()
                except ConnectionError:
                    break
                await asyncio.sleep(pause_s)
            try:
                raw = await answer
            except asyncio.IncompleteReadError as error:
                raw = error.partial
            return raw[9:12].decode(errors="replace") or "cut"
        finally:
            answer.cancel()


def _whole(name: str, path: str) -> Attack:
    async def whole(target: Target) -> str:
        body = bodies.body(name, target.model)
        return await send(target, head(path, len(body)), body)

    return whole


async def slow_headers(target: Target) -> str:
    """A header every half second, and never the last one."""
    return await send(target, b"POST /v1/chat/completions HTTP/1.1\r\n", *([b"X-A: b\r\n"] * 15), pause_s=0.5)


async def slow_body(target: Target) -> str:
    """A byte of the body every half second."""
    whole = request(_CHAT, bodies.chat(target.model, 8))
    return await send(target, whole[:-15], *(whole[-15 + n : -14 + n or None] for n in range(15)), pause_s=0.5)


async def half_request(target: Target) -> str:
    """Half of a large body, then gone."""
    body = bodies.body("one message, up to the limit", target.model)
    async with connection(target) as (_, writer):
        writer.writelines((head(_CHAT, len(body)), body[: len(body) // 2]))
        await writer.drain()
    return "hung up"


async def endless_chunks(target: Target) -> str:
    """A chunked body that does not end."""
    begin = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return await send(target, begin, *([b"40000\r\n" + b" " * 0x40000 + b"\r\n"] * 256))


async def head_flood(target: Target) -> str:
    """HEAD on the forms of GET that generate."""
    path = "/stream?prompt=x"
    async with connection(target) as (reader, writer):
        writer.write(request(path, b"", method="HEAD") * 20)
        return (await reader.readexactly(12))[9:].decode()


async def get_and_leave(target: Target) -> str:
    """What a link scanner does to `/stream`."""
    return await send(target, request("/stream?prompt=tell+me+more&max_tokens=2000", b"", method="GET"), read=2000)


async def stream_and_leave(target: Target, *headers: str) -> str:
    """A long answer that nobody waits for."""
    return await send(target, request(_CHAT, bodies.chat(target.model, 2000), *headers), read=4000)


async def kept_and_leave(target: Target) -> str:
    """The same, to be kept."""
    return await stream_and_leave(target, "X-Stream-Resume: true")


async def same_key(target: Target) -> str:
    """One idempotency key for whatever."""
    body = bodies.chat(target.model, 50, content=str(random.random()))
    return await send(target, request(_CHAT, body, "Idempotency-Key: the-only-one"), read=400)


async def unread(target: Target) -> str:
    """A stream that is not read for five seconds."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)
    with own:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(own, ("127.0.0.1", target.port))
        await loop.sock_sendall(own, request(_CHAT, bodies.chat(target.model, 4000)))
        await asyncio.sleep(5)
        return (await loop.sock_recv(own, 12))[9:].decode() or "cut"


async def h2c(target: Target) -> str:
    """The offer of Java's HTTP client, the body in a packet of its own."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")
    body = bodies.chat(target.model, 4, stream=False)
    whole = request(_CHAT, body, *offer)
    return await send(target, whole[: -len(body)], body, pause_s=0.05)


async def gzip_bomb(target: Target) -> str:
    """64 MiB in 64 KiB."""
    return await send(target, request(_CHAT, bodies.gzip_bomb(target.model), "Content-Encoding: gzip"))


async def broken_gzip(target: Target) -> str:
    """A body that says gzip and is not, or ends too early."""
    broken = random.choice([b"\x1f\x8b" + b"\0" * 1000, bodies.gzip_bomb(target.model)[:1000]])
    return await send(target, request(_CHAT, broken, "Content-Encoding: gzip"))


async def nested_with_key(target: Target) -> str:
    """Deep metadata where requests are remembered."""
    body = bodies.nested_metadata(target.model)
    return await send(target, request(_CHAT, body, f"Idempotency-Key: k{random.random()}"))


async def impatient(target: Target) -> str:
    """What can never fit, with a deadline."""
    body = bodies.body("a prompt that can never fit", target.model)
    return await send(target, request(_CHAT, body, "X-Deadline-Ms: 500"))


async def many_headers(target: Target) -> str:
    """Headers of 200 KiB."""
    return await send(
        target, request(_CHAT, bodies.chat(target.model, 4), *(f"X-{n}: {'a' * 90}" for n in range(2000)))
    )


async def long_address(target: Target) -> str:
    """A prompt of 60 KiB in the address."""
    return await send(target, request(f"/stream?prompt={'a' * 60_000}", b"", method="GET"))


async def pipeline(target: Target) -> str:
    """200 requests in one packet."""
    return await send(target, request("/v1/models", b"", method="GET") * 200)


async def two_lengths(target: Target) -> str:
    """Both a length and chunks."""
    return await send(target, request(_CHAT, b"0\r\n\r\n", "Transfer-Encoding: chunked"))


async def unknown_streams(target: Target) -> str:
    """Guesses at others' streams."""
    path = f"/v1/streams/{random.getrandbits(120):x}?offset={10**30}"
    return await send(target, request(path, b"", method="GET") * 10)


async def preflight(target: Target) -> str:
    """From another page."""
    headers = ("Origin: http://evil.example", "Access-Control-Request-Method: POST")
    return await send(target, request(_CHAT, b"", *headers, method="OPTIONS") * 10)


async def background(target: Target) -> str:
    """Responses that run on alone."""
    body = f'{{"model":"{target.model}","input":"hi","background":true,"max_output_tokens":500}}'.encode()
    return await send(target, request("/v1/responses", body))


async def health_flood(target: Target) -> str:
    """Metrics and readiness, as fast as one connection asks."""
    return await send(target, request(random.choice(["/metrics", "/ready", "/health"]), b"", method="GET") * 10)


_OTHERS: tuple[Attack, ...] = (
    slow_headers, slow_body, half_request, endless_chunks, head_flood, get_and_leave, stream_and_leave, kept_and_leave,
    same_key, unread, h2c, gzip_bomb, broken_gzip, nested_with_key, impatient, many_headers, long_address, pipeline,
    two_lengths, unknown_streams, preflight, background, health_flood,
)  # fmt: skip


def attacks() -> dict[str, Attack]:
    """All of them by name."""
    whole = {name: _whole(name, path) for name, path in bodies.all_bodies()}
    return {**whole, **{each.__name__.replace("_", " "): each for each in _OTHERS}}
