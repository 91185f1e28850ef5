"""Over real sockets, with uvicorn as Ray Serve itself starts it."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator

import pytest
from ray.serve._private import http_util
from ray.serve.config import HTTPOptions
from uvicorn.protocols.http import auto

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, speak
from tests.support.polling import eventually_async
from tools.fast_path import PLAIN_HTTP
from tools.private_ray import free_ports

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

BODY = b'{"model":"test-model","messages":[{"role":"user","content":"hi"}]}'
STREAMED = BODY[:-1] + b',"stream":true}'
JAVA = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQB\r\n"
"""What Java's HTTP client sends with each request, unless it is told not to."""


_TURNS = 10


def head(headers: bytes = b"", length: int = len(BODY), version: bytes = b"1.1") -> bytes:
    start = b"POST /v1/chat/completions HTTP/%b\r\nHost: test\r\nContent-Type: application/json\r\n" % version
    return start + headers + b"Content-Length: %d\r\n\r\n" % length


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Serve's own function starts the server, after the callback that `make run` names to it."""
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)  # put back at the end
    monkeypatch.setattr(http_util, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", PLAIN_HTTP[CALLBACK])
    router = FakeRouter([speak("Hel", "lo")])
    app = build_api(lambda: router, IngressConfig(), clock=router.clock)
    [port] = free_ports(1)
    options = http_util.configure_http_middlewares(HTTPOptions(host="127.0.0.1", port=port))
    task, server = await http_util.start_asgi_http_server(app, options, event_loop=asyncio.get_running_loop())

    async def started() -> bool:
        return bool(server.started)

    await eventually_async(started, 10.0, "the server listens")
    yield port
    server.should_exit = True
    await task


async def answers(port: int, *packets: bytes, close: bool = True) -> bytes:
    """What the server sends until it closes the connection, which is asked for after the last answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for packet in packets:
        writer.write(packet)
        await writer.drain()
        for _ in range(_TURNS):  # so that the server, on the same loop, reads it as a packet of its own
            await asyncio.sleep(0)
    if close:
        writer.write(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    try:
        async with asyncio.timeout(5.0):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "packets",
    [
        (head(JAVA) + BODY,),
        (head(JAVA), BODY),
        (head(JAVA), BODY[:9], BODY[9:]),
        (head(JAVA)[:70], head(JAVA)[70:] + BODY[:5], BODY[5:]),
        (head(JAVA) + BODY + head(JAVA) + BODY,),
        (head(b"Expect: 100-continue\r\n" + JAVA), BODY),
    ],
    ids=["one packet", "body apart", "body in two", "head in two", "pipelined", "100-continue"],
)
async def test_an_offer_of_another_protocol_is_ignored_and_the_body_read(port: int, packets: tuple[bytes, ...]) -> None:
    received = await answers(port, *packets)
    asked = b"".join(packets).count(b"POST ")
    assert received.count(b"HTTP/1.1 200 OK") == asked + 1, received
    assert received.count(b'"content":"Hello"') == asked
    assert received.endswith(b'{"status":"ok"}')


async def test_a_body_in_chunks_is_read_as_well(port: int) -> None:
    request = head(JAVA).replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    received = await answers(port, request, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert received.count(b'"content":"Hello"') == 1


async def test_an_offer_with_connection_close_still_closes(port: int) -> None:
    received = await answers(port, head(JAVA.replace(b"Upgrade,", b"close, Upgrade,")) + BODY, close=False)
    assert received.count(b"HTTP/1.1 200 OK") == 1


async def test_websockets_are_upgraded_as_before(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16))
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key
    writer.write(b"GET /v1/ws/chat HTTP/1.1\r\nHost: test\r\n" + upgrade + b"\r\n\r\n")
    async with asyncio.timeout(5.0):
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
    writer.close()


async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(port: int) -> None:
    received = await answers(port, head(b"", len(STREAMED), b"1.0") + STREAMED, close=False)
    headers, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in headers.lower()
    assert b"connection: close" in headers.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_answer_of_known_length_to_an_http_1_0_client_says_it(port: int) -> None:
    received = await answers(port, head(b"", len(BODY), b"1.0") + BODY, close=False)
    headers, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in headers.lower()
    assert b'"content":"Hello"' in body


@pytest.mark.parametrize(
    "endless", [b"GET /stream?prompt=", b"GET /health HTTP/1.1\r\nX: ", b"GET /health HTTP/1.1\r\n"]
)
async def test_a_head_that_does_not_end_is_refused(port: int, endless: bytes) -> None:
    unit = b"X-Header: 1\r\n" if endless.endswith(b"\n") else b"a" * 13
    received = await answers(port, endless, *[unit * 1000] * 6, close=False)
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"payload_too_large"' in received


async def test_a_long_head_is_read_as_long_as_it_is_within_the_bound(port: int) -> None:
    long = b"X-Long: " + b"a" * 60_000 + b"\r\n"
    request = head(long)
    received = await answers(port, request[:100], request[100:40_000], request[40_000:], BODY)
    assert received.count(b'"content":"Hello"') == 1


async def test_what_follows_a_body_in_chunks_is_no_header_and_the_next_request_is_read(port: int) -> None:
    request = head().replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    received = await answers(port, request, b"%x\r\n%b\r\n0\r\nX-Priority: wrong\r\n\r\n" % (len(BODY), BODY))
    assert received.count(b"HTTP/1.1 200 OK") == 2


async def test_what_is_no_http_is_refused(port: int) -> None:
    assert (await answers(port, b"\x16\x03\x01nonsense\r\n\r\n", close=False)).startswith(b"HTTP/1.1 400")
