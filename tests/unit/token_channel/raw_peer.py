"""Bare ZeroMQ sockets that play engines and routers which do not keep to the rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import zmq
import zmq.utils.monitor

from serve_app.token_channel.codec import PROTOCOL_VERSION
from serve_app.token_channel.endpoint import ChannelEndpoint
from serve_app.token_channel.sockets import Socket
from tests.unit.token_channel.recorder import HOST, until

_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)


@contextmanager
def raw_socket(kind: int) -> Iterator[Socket]:
    """A socket with a context of its own."""
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        yield socket
    finally:
        context.destroy(linger=0)


@contextmanager
def raw_engine(
    endpoint: ChannelEndpoint,
    engine_id: bytes = b"raw",
    server_key: bytes | None = None,
    client_keys: tuple[bytes, bytes] | None = None,
) -> Iterator[Socket]:
    """A socket that connects as an engine does, with other keys when they are given."""
    with raw_socket(zmq.DEALER) as socket:
        public_key, secret_key = client_keys or (endpoint.client_public_key, endpoint.client_secret_key)
        socket.setsockopt(zmq.ROUTING_ID, engine_id)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key or endpoint.server_public_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public_key)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key)
        socket.connect(endpoint.address)
        yield socket


@contextmanager
def raw_router(router_id: str) -> Iterator[tuple[Socket, ChannelEndpoint]]:
    """A router's socket that reads and answers only what the test makes it."""
    with raw_socket(zmq.ROUTER) as socket:
        server_public_key, server_secret_key = zmq.curve_keypair()
        client_public_key, client_secret_key = zmq.curve_keypair()
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, server_secret_key)
        port = socket.bind_to_random_port(f"tcp://{HOST}")
        yield (
            socket,
            ChannelEndpoint(
                PROTOCOL_VERSION,
                router_id,
                f"tcp://{HOST}:{port}",
                server_public_key,
                client_public_key,
                client_secret_key,
            ),
        )


async def until_refused(socket: Socket, attempts: int = 1) -> None:
    """Wait until as many connection attempts at one end of `socket`, made after this call began, have failed."""
    monitor = socket.get_monitor_socket(_REFUSALS)
    try:
        for _ in range(attempts):
            await until(lambda: bool(monitor.poll(0)))
            monitor.recv_multipart()
    finally:
        socket.disable_monitor()
