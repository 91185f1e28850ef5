"""What Serve's gRPC servers are given."""

from __future__ import annotations

import enum
import socket
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import psutil
import pytest
from ray.serve._private.grpc_util import gRPCGenericServer

from serve_app.ingress.grpc.call import CALL_DEADLINE
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.server import _own_addresses, add_local_services, add_services, is_local


@pytest.fixture(autouse=True)
def interfaces_are_read_anew() -> None:
    _own_addresses.cache_clear()


class Kind(enum.StrEnum):
    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_STREAM = "stream_stream"


class Aborted(Exception):
    pass


class Context:
    """As grpcio's, as far as it is used."""

    def __init__(
        self, *metadata: tuple[str, str], peer: str = "ipv4:127.0.0.1:5", remaining_s: float | None = None
    ) -> None:
        self._peer = peer
        self._remaining_s = remaining_s
        self._metadata = list(metadata)
        self.aborted: grpc.StatusCode | None = None

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        return self._remaining_s

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._metadata

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.aborted = code
        raise Aborted(details)


class Server:
    """Serve's server: makes each handler itself, and knows nothing of the servicer."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.deserializers: dict[str, Callable[[bytes], Any]] = {}

    def service_handler_factory(self, service_method: str, streaming_type: Kind) -> Callable[..., Any]:
        async def one(request: str, context: Context) -> tuple[str, dict[str, str]]:
            return f"{service_method} {request} {context.peer()}", dict(context.invocation_metadata())

        async def many(request: str, context: Context) -> AsyncIterator[tuple[str, dict[str, str]]]:
            yield await one(request, context)

        return many if streaming_type.value.endswith("_stream") else one

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        for method, handler in handlers.items():
            sides = (handler.request_streaming, handler.response_streaming)
            kind = Kind("_".join("stream" if streaming else "unary" for streaming in sides))
            name = f"/{service}/{method}"
            self.deserializers[name] = handler.request_deserializer
            self.handlers[name] = self.service_handler_factory(service_method=name, streaming_type=kind)


class Servicer:
    """Has every method."""

    def __getattr__(self, name: str) -> str:
        return name


def served(add: Callable[[Any, Any], None]) -> dict[str, Callable[..., Any]]:
    server = Server()
    add(Servicer(), server)
    assert "service_handler_factory" not in vars(server) or server.service_handler_factory.__name__ != "make_wrapped"
    return server.handlers


def test_all_services_are_served() -> None:
    assert {"/ChatService/StreamChat", "/ChatService/BiStreamChat", "/LLMService/Ask"} < served(add_services).keys()
    assert {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} < served(add_services).keys()


async def test_a_calls_deadline_is_among_its_metadata() -> None:
    ask = served(add_services)["/LLMService/Ask"]
    answer, metadata = await ask("hi", Context(("x-priority", "batch"), remaining_s=1.5))
    assert answer == "/LLMService/Ask hi ipv4:127.0.0.1:5"
    assert metadata == {"x-priority": "batch", CALL_DEADLINE: "1500"}


async def test_a_call_without_a_deadline_has_none_even_if_its_client_says_so() -> None:
    _, metadata = await served(add_services)["/LLMService/Ask"]("hi", Context((CALL_DEADLINE, "5")))
    assert metadata == {}


async def test_streams_have_their_deadline_too() -> None:
    for method in ("StreamChat", "BiStreamChat"):
        handler = served(add_services)[f"/ChatService/{method}"]
        ((_, metadata),) = [answer async for answer in handler("hi", Context(remaining_s=0.0))]
        assert metadata == {CALL_DEADLINE: "1"}


async def test_the_local_services_turn_away_other_machines() -> None:
    handlers = served(add_local_services)
    away = Context(peer="ipv4:192.0.2.7:5")
    with pytest.raises(Aborted):
        await handlers["/LLMService/Ask"]("hi", away)
    assert away.aborted is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(Aborted):
        async for _ in handlers["/ChatService/StreamChat"]("hi", away):
            pass
    assert await handlers["/LLMService/Ask"]("hi", Context())


async def test_the_open_services_serve_other_machines() -> None:
    assert await served(add_services)["/LLMService/Ask"]("hi", Context(peer="ipv4:192.0.2.7:5"))


@pytest.mark.parametrize(
    "peer", ["ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5", "ipv6:[::1]:5", "ipv6:[::ffff:127.0.0.1]:5", "unix:"]
)
def test_this_machine_is_local(peer: str) -> None:
    assert is_local(peer)


def test_an_address_of_an_interface_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(family: int, value: str) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=value)

    interfaces = {
        "eth0": [address(socket.AF_INET, "192.0.2.7"), address(socket.AF_INET6, "2001:db8::7")],
        "eth1": [address(socket.AF_INET6, "fe80::7%eth1"), address(socket.AF_PACKET, "192.0.2.9")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    for peer in (
        "ipv4:192.0.2.7:5",
        "ipv6:[::ffff:192.0.2.7]:5",
        "ipv6:%5B2001:db8::7%5D:5",
        "ipv6:[fe80::7%25eth1]:5",
    ):
        assert is_local(peer), peer
    for peer in ("ipv4:192.0.2.8:5", "ipv4:192.0.2.9:5", "ipv6:[2001:db8::8]:5"):
        assert not is_local(peer), peer


def test_what_can_be_bound_is_not_local_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `net.ipv4.ip_nonlocal_bind=1`, where every address can be bound."""
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    assert not is_local("ipv4:192.0.2.7:5")
    assert not is_local("ipv6:[2001:db8::8]:5")


@pytest.mark.parametrize(
    "peer",
    ["ipv4:192.0.2.7:5", "ipv6:%5B2001:db8::1%5D:5", "ipv6:[::ffff:192.0.2.7]:5", "ipv6:[fe80::1%25eth0]:5", "", "x"],
)
def test_other_machines_are_not(peer: str) -> None:
    assert not is_local(peer)


@pytest.mark.parametrize("method", ["/LLMService/Ask", "/ChatService/StreamChat", "/grpc.health.v1.Health/Check"])
async def test_bytes_that_are_no_message_are_the_clients_fault(method: str) -> None:
    server = Server()
    add_services(Servicer(), server)
    context = Context()
    answer = server.handlers[method](server.deserializers[method](b"\xff" * 10), context)
    with pytest.raises(Aborted, match="no message of this method"):
        await (anext(answer) if hasattr(answer, "__anext__") else answer)
    assert context.aborted is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_are_read_as_before() -> None:
    server = Server()
    add_services(Servicer(), server)
    request = LLMRequest(prompt="hi")
    assert server.deserializers["/LLMService/Ask"](request.SerializeToString()) == request


async def test_serves_own_server_answers_invalid_argument() -> None:
    async def answer(_request: Any, _context: Any) -> bytes:
        return b""

    server = gRPCGenericServer(lambda **_: answer)
    port = server.add_insecure_port("127.0.0.1:0")
    add_services(Servicer(), server)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary("/LLMService/Ask")
            assert await ask(LLMRequest(prompt="hi").SerializeToString()) == b""
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(b"\xff" * 1000)
    finally:
        await server.stop(None)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
