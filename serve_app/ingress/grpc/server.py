"""Puts the services onto the gRPC servers that Serve runs: `grpc_servicer_functions` of the Serve config file.

Serve's servers tell deployments neither a call's deadline nor let their address be chosen, so both is done here: each
handler gets a context whose metadata has the deadline, and `add_local_services` turns away whoever is not on this
machine. Both wrap `service_handler_factory`, from which Serve's servers make every handler.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import time
import urllib.parse
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import psutil
from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from serve_app.ingress.grpc.call import CALL_DEADLINE
from serve_app.ingress.grpc.log_filter import hide_metadata
from serve_app.ingress.grpc.proto.chat_pb2_grpc import add_ChatServiceServicer_to_server
from serve_app.ingress.grpc.proto.llm_pb2_grpc import add_LLMServiceServicer_to_server
from serve_app.ingress.grpc.status import Trailer

Handler = Callable[..., Any]

_IP = (socket.AF_INET, socket.AF_INET6)


def add_services(servicer: Any, server: Any) -> None:
    """Serve everyone."""
    _add(servicer, server, _Arrived)


def add_local_services(servicer: Any, server: Any) -> None:
    """Serve clients on this machine only. Others get `PERMISSION_DENIED`, since the port itself is open to them."""
    _add(servicer, server, _ArrivedLocally)


class _Arrived:
    """A call's context, with the call's deadline among its metadata."""

    def __init__(self, context: Any) -> None:
        self._context = context
        remaining_s = context.time_remaining()
        self._deadline_ms = None if remaining_s is None else max(1, round(remaining_s * 1000))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[Trailer]:
        """What the client sent, and the deadline that it set."""
        metadata = [(key, value) for key, value in self._context.invocation_metadata() or () if key != CALL_DEADLINE]
        return metadata if self._deadline_ms is None else [*metadata, (CALL_DEADLINE, str(self._deadline_ms))]

    async def check(self) -> None:
        """End the call when it may not be served."""


class _ArrivedLocally(_Arrived):
    async def check(self) -> None:
        if not is_local(self._context.peer()):
            await self._context.abort(grpc.StatusCode.PERMISSION_DENIED, "Only clients on this machine are served.")


def is_local(peer: str) -> bool:
    """Whether `peer`, as gRPC writes it (`ipv4:127.0.0.1:5`, `ipv6:%5B::1%5D:5`, `unix:`), is on this machine."""
    kind, _, address = urllib.parse.unquote(peer).partition(":")
    if kind == "unix":
        return True
    try:
        ip = ipaddress.ip_address(address.rpartition(":")[0].strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    # HAProxy reaches the routers of its own machine by the address that Ray knows the machine by.
    return ip.is_loopback or str(ip) in _own_addresses(int(time.monotonic()))


@functools.lru_cache(maxsize=1)
def _own_addresses(second: int) -> set[str]:
    """The addresses of this machine's interfaces. They change: read once in a `second` of the clock, in 0.2 ms.

    That a socket can be bound to an address says nothing: with `net.ipv4.ip_nonlocal_bind`, which keepalived and its
    like set, it can be bound to any.
    """
    del second
    known = psutil.net_if_addrs().values()
    return {each.address.partition("%")[0] for addresses in known for each in addresses if each.family in _IP}


def _add(servicer: Any, server: Any, arrived: type[_Arrived]) -> None:
    # Here, since this runs in each process that has a server: Serve's proxies, or the replicas behind HAProxy.
    hide_metadata()
    make = server.service_handler_factory

    def make_wrapped(service_method: str, streaming_type: Any) -> Handler:
        handler = make(service_method=service_method, streaming_type=streaming_type)
        wrap = _streaming if streaming_type.value.endswith("_stream") else _unary
        return wrap(handler, arrived)

    server.service_handler_factory = make_wrapped
    try:
        for add in (add_ChatServiceServicer_to_server, add_LLMServiceServicer_to_server, add_HealthServicer_to_server):
            add(servicer, _Registering(server))
    finally:
        server.service_handler_factory = make


class _Registering:
    """What generated code sees of a server: single requests that are no message reach our handlers as `_UNREADABLE`.

    grpcio would answer `UNKNOWN`, which says that the server is at fault.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Where a method is looked up by its name."""
        for handler in handlers:
            handler._method_handlers = _forgiving(handler._method_handlers)
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The faster way of newer versions."""
        self._server.add_registered_method_handlers(service, _forgiving(handlers))


_UNREADABLE = object()


def _forgiving(handlers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: handler
        if handler.request_streaming
        else handler._replace(request_deserializer=_reading(handler.request_deserializer))
        for name, handler in handlers.items()
    }


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _UNREADABLE

    return read


async def _require_readable(request: Any, context: Any) -> None:
    if request is _UNREADABLE:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request is no message of this method.")


def _unary(handler: Handler, arrived: type[_Arrived]) -> Handler:
    async def handle(request: Any, context: Any) -> Any:
        context = arrived(context)
        await context.check()
        await _require_readable(request, context)
        return await handler(request, context)

    return handle


def _streaming(handler: Handler, arrived: type[_Arrived]) -> Handler:
    async def handle(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        context = arrived(context)
        await context.check()
        await _require_readable(request, context)
        async with aclosing(handler(request, context)) as messages:
            async for message in messages:
                yield message

    return handle
