"""Whatever a client sends as its key, by whatever way: no part of it is in a log, and the server goes on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from ray.serve._private.grpc_util import gRPCGenericServer

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.server import add_services
from serve_app.ingress.grpc.services import build_grpc
from serve_app.ingress.identity import AnyToken
from tests.support.fake_router import FakeRouter
from tests.support.grpc_calls import FakeContext
from tests.support.raw_grpc import call
from tests.unit.ingress.websocket.client import SocketClient

TOKENS = [
    b"s3cr3t-k3y",
    "s3cr3t-k3y-키".encode(),
    "키-k3y".encode("euc-kr"),
    b"s3cr3t-k3y\xff\xfe",
    b"s3cr3t-k3y\x80" * 10,
    b"s3cr3t k3y , x",
]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
async def address(router: FakeRouter) -> AsyncIterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api = build_api(lambda: router, IngressConfig(), clock=router.clock)
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off", access_log=False))
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()
        server.should_exit = True
        await serving


def check(log: pytest.LogCaptureFixture, token: bytes) -> None:
    """No record shows four bytes of the key in a row, or any character of it that is not ASCII, however spelled."""
    text = log.text + "".join(f"{record.msg} {record.args}" for record in log.records)
    readings = [token.decode(encoding, "ignore") for encoding in ("latin-1", "utf-8", "euc-kr")]
    parts = {reading[start : start + 4] for reading in readings for start in range(len(reading) - 3)}
    parts |= {character for reading in readings for character in reading if character > "~"}
    spelled = parts | {ascii(part)[1:-1] for part in parts} | {f"\\x{byte:02x}" for byte in token if byte > 0x7E}
    assert [part for part in spelled if part in text] == []


async def exchange(address: tuple[str, int], *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        for part in parts:
            writer.write(part)
            async with asyncio.timeout(0.3):
                answer += await reader.read(100_000)
    writer.close()
    return answer


def request(token: bytes) -> bytes:
    body = json.dumps({"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )


def handshake(*headers: bytes) -> bytes:
    key = base64.b64encode(b"0123456789abcdef")
    lines = [b"GET /v1/ws/chat HTTP/1.1", b"Host: test", b"Upgrade: websocket", b"Connection: Upgrade"]
    lines += [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + key, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def text_frame(payload: bytes) -> bytes:
    return b"\x81" + struct.pack(">BH", 0x80 | 126, len(payload)) + b"\0\0\0\0" + payload


@pytest.mark.parametrize("token", TOKENS)
async def test_http_headers(token: bytes, address: tuple[str, int], log: pytest.LogCaptureFixture) -> None:
    assert (await exchange(address, request(token))).startswith(b"HTTP/1.1 200")
    check(log, token)


@pytest.mark.parametrize("token", TOKENS)
async def test_socket_handshakes(token: bytes, address: tuple[str, int], log: pytest.LogCaptureFixture) -> None:
    by_header = handshake(b"Authorization: Bearer " + token)
    assert (await exchange(address, by_header)).startswith(b"HTTP/1.1 101")
    offered = await exchange(address, handshake(b"Sec-WebSocket-Protocol: serve-app.v1, bearer." + token))
    assert offered.startswith((b"HTTP/1.1 101", b"HTTP/1.1 400"))
    check(log, token)


@pytest.mark.parametrize("token", TOKENS)
async def test_socket_messages(token: bytes, address: tuple[str, int], log: pytest.LogCaptureFixture) -> None:
    message = b'{"type":"auth","token":"' + token + b'"}'
    await exchange(address, handshake(), text_frame(message), text_frame(b'{"type":"ping"}'))
    check(log, token)


@pytest.mark.parametrize("token", ["키", "é", "\U0001f511", "키\n", "\x00"])
async def test_any_token_is_accepted_in_a_message(
    token: str, router: FakeRouter, log: pytest.LogCaptureFixture
) -> None:
    async with SocketClient(router) as client:
        client.say({"type": "auth", "token": token})
        client.ask("a")
        assert (await client.hear_until("done", "error"))[-1]["type"] == "done"
    assert router.requests[0].tenant == AnyToken().identify(token.strip() or None).tenant
    check(log, token.encode())


async def test_half_a_character_in_a_message_is_an_error(router: FakeRouter, log: pytest.LogCaptureFixture) -> None:
    async with SocketClient(router) as client:
        client.say('{"type":"auth","token":"s3cr3t\\ud800"}')
        assert (await client.hear())["error"]["code"] == "invalid_json"
        client.say({"type": "ping"})
        assert (await client.hear()) == {"type": "pong"}
    check(log, b"s3cr3t")


async def test_grpc_metadata_keeps_tenants_apart(router: FakeRouter) -> None:
    services = build_grpc(router, IngressConfig())
    for token in ("키", "글", "é", "ê", "s3cr3t\udcff", "s3cr3t\udcfe"):
        await services.ask(LLMRequest(prompt="hi"), FakeContext(("authorization", f"Bearer {token}")))
    assert len({each.tenant for each in router.requests} - {"anonymous"}) == 6


async def test_a_key_is_the_same_tenant_by_every_protocol(address: tuple[str, int], router: FakeRouter) -> None:
    await exchange(address, request("키".encode()))
    await build_grpc(router, IngressConfig()).ask(LLMRequest(prompt="hi"), FakeContext(("authorization", "Bearer 키")))
    async with SocketClient(router) as client:
        client.say({"type": "auth", "token": "키"})
        client.ask("a")
        await client.hear_until("done")
    assert len({each.tenant for each in router.requests}) == 1
    assert len(router.requests) == 3


@pytest.mark.parametrize("token", TOKENS)
async def test_grpc_calls(token: bytes, router: FakeRouter, log: pytest.LogCaptureFixture) -> None:
    """By the server that Serve uses: grpcio's writes metadata that is no UTF-8 into its log."""
    services = build_grpc(router, IngressConfig())

    def make_handler(service_method: str, streaming_type: Any) -> Any:
        async def answer(message: LLMRequest, context: Any) -> bytes:
            reply = await services.ask(message, FakeContext(*context.invocation_metadata()))
            data: bytes = reply.SerializeToString()
            return data

        return answer

    server = gRPCGenericServer(make_handler)
    add_services(Mock(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        request = LLMRequest(prompt="hi").SerializeToString()
        await call(port, b"/LLMService/Ask", request, (b"authorization", b"Bearer " + token))
    finally:
        await server.stop(None)
    assert len(router.requests) == 1
    check(log, token)
