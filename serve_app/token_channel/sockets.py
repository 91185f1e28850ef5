"""ZeroMQ sockets on the event loop, without a task or future per message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import zmq

from serve_app.token_channel.config import ChannelConfig

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

_logger = logging.getLogger(__name__)

_MESSAGES_PER_TURN = 100


class SocketReader:
    """Hands each message of `socket` to `on_message`, as a list of frames.

    ZeroMQ's file descriptor tells only of *changes*: it is silent about messages that arrived while the socket was
    used otherwise. So reading goes on until nothing is left, and `catch_up` must be called after each send. Works on
    asyncio's and uvloop's loops. Use it on the loop that runs when it is made.
    """

    def __init__(self, socket: Socket, on_message: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = cast(int, socket.getsockopt(zmq.FD))
        self._closed = False
        self._loop.add_reader(self._fd, self._read_some)
        self._loop.call_soon(self._read_some)

    def catch_up(self) -> None:
        """Read what arrived while the socket was sending."""
        if cast(int, self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._read_some()

    def read_all(self) -> None:
        """Read everything that has arrived, however much it is."""
        while self._read_turn():
            pass

    def close(self) -> None:
        """Stop reading; call it before the socket is closed. Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)

    def _read_some(self) -> None:
        if self._read_turn():
            self._loop.call_soon(self._read_some)

    def _read_turn(self) -> bool:
        """Read as much as one turn of the event loop allows, and return whether there may be more."""
        for _ in range(_MESSAGES_PER_TURN):
            if self._closed:
                return False
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            try:
                self._on_message(frames)
            except Exception:
                _logger.exception("token channel: a message handler failed")
        return True


def limit_socket(socket: Socket, config: ChannelConfig) -> None:
    """Bound what `socket` holds, and let ZeroMQ drop and renew connections whose other end vanished without a word."""
    socket.setsockopt(zmq.RCVHWM, config.high_water_mark)
    socket.setsockopt(zmq.SNDHWM, config.high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, max(1, int(config.silence_timeout_s * 1000)))
    socket.setsockopt(zmq.HEARTBEAT_IVL, max(1, int(config.heartbeat_interval_s * 1000)))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, max(1, int(config.silence_timeout_s * 1000)))
