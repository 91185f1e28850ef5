"""Admits to a ZeroMQ context only the peers that hold one given CURVE key."""

from __future__ import annotations

import hmac
import logging

import zmq
import zmq.utils.z85

from serve_app.token_channel.sockets import Context, SocketReader
from serve_app.token_channel.stats import ReceiverStats, worth_logging

_logger = logging.getLogger(__name__)

_ADDRESS = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_REQUEST_FRAMES = 7  # version, request id, domain, address, identity, mechanism, client key


class AllowList:
    """Answers ZeroMQ's question "may this key connect?" (ZAP, https://rfc.zeromq.org/spec/27/) on the event loop.

    Make it before any socket of the context is bound: without it CURVE admits every key.
    """

    def __init__(self, context: Context, client_public_key: bytes, stats: ReceiverStats) -> None:
        self._allowed = zmq.utils.z85.decode(client_public_key)
        self._stats = stats
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ADDRESS)
        self._reader = SocketReader(self._socket, self._answer)

    def close(self) -> None:
        """Stop answering; close the sockets that depend on it first."""
        self._reader.close()
        self._socket.close()

    def _answer(self, frames: list[bytes]) -> None:
        request_id = frames[1] if len(frames) > 1 else b""
        if self._admits(frames):
            status, text = b"200", b"OK"
        else:
            status, text = b"400", b"unknown key"
            self._stats.refused_connections += 1
            if worth_logging(self._stats.refused_connections):
                peer = frames[3].decode("utf-8", "replace") if len(frames) > 3 else "unknown address"
                _logger.warning("token channel: refused a connection from %s: unknown key", peer)
        self._socket.send_multipart([_VERSION, request_id, status, text, b"", b""], zmq.NOBLOCK)
        self._reader.catch_up()

    def _admits(self, frames: list[bytes]) -> bool:
        if len(frames) != _REQUEST_FRAMES:
            return False
        version, _, _, _, _, mechanism, key = frames
        return version == _VERSION and mechanism == b"CURVE" and hmac.compare_digest(key, self._allowed)
