"""The router's side of the token channel: one socket to which all engines connect."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from serve_app.core.engine_status import EngineStatus
from serve_app.core.interfaces import Clock
from serve_app.token_channel.allow_list import AllowList
from serve_app.token_channel.codec import (
    PROTOCOL_VERSION,
    Batch,
    MalformedMessage,
    UnsupportedVersion,
    WireEvent,
    decode_batch,
    encode_ack,
)
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint
from serve_app.token_channel.liveness import SilenceDetector
from serve_app.token_channel.sockets import Context, Socket, SocketReader, limit_socket
from serve_app.token_channel.stats import ReceiverStats, worth_logging

_logger = logging.getLogger(__name__)

_SWEEPS_PER_TIMEOUT = 10


class ChannelListener(Protocol):
    """Takes what engines send. Called on the event loop; must not block. What it raises is logged, not handled."""

    def on_events(self, engine_id: str, events: Sequence[WireEvent]) -> None:
        """Take one message's events, in order. A gap in a stream's `seq` means that events were lost."""

    def on_status(self, status: EngineStatus) -> None:
        """Take an engine's report, at least one per heartbeat interval; comes after the events of its message."""

    def on_silent(self, engine_id: str) -> None:
        """The engine sent nothing for the silence timeout; told once until it speaks again."""


class ChannelReceiver:
    """Receives the events and reports of all engines for one router. Use it from one event loop."""

    def __init__(
        self,
        router_id: str,
        listener: ChannelListener,
        config: ChannelConfig,
        host: str,
        clock: Clock = time.monotonic,
        on_loss: Callable[[str], None] | None = None,
    ) -> None:
        """`host` is the IP address to bind, which engines connect to.

        `on_loss(engine_id)` is called when at least one message of that engine went missing, within a heartbeat
        interval even when nothing follows it: the last events of a stream leave no gap in `seq` to be noticed by.
        An engine that speaks again after it was reported as silent counts as having lost some.
        """
        self.stats = ReceiverStats()
        self._router_id = router_id
        self._listener = listener
        self._config = config
        self._host = host
        self._clock = clock
        self._on_loss = on_loss
        self._silence = SilenceDetector(config.silence_timeout_s)
        self._next_number: dict[str, int] = {}
        self._context: Context | None = None
        self._socket: Socket
        self._reader: SocketReader
        self._allow_list: AllowList
        self._timer: asyncio.TimerHandle

    async def start(self) -> ChannelEndpoint:
        """Bind the socket with new keys, and return what engines need to connect. Call it once.

        Raises `zmq.ZMQError` when no port of the configured range is free or `host` is not of this machine.
        """
        server_public_key, server_secret_key = zmq.curve_keypair()
        client_public_key, client_secret_key = zmq.curve_keypair()
        self._context = zmq.Context()
        self._allow_list = AllowList(self._context, client_public_key, self.stats)
        self._socket = self._make_socket(self._context, server_secret_key)
        try:
            address = self._bind()
        except zmq.ZMQError:
            self._socket.close()
            self._allow_list.close()
            self._context.term()
            self._context = None
            raise
        self._reader = SocketReader(self._socket, self._on_message)
        self._schedule_check()
        return ChannelEndpoint(
            PROTOCOL_VERSION, self._router_id, address, server_public_key, client_public_key, client_secret_key
        )

    def check_silence(self, now: float) -> None:
        """Report the engines that have gone silent at `now`. Called by the receiver's own timer."""
        self._reader.read_all()
        for engine_id in self._silence.sweep(now):
            self._next_number.pop(engine_id, None)
            _logger.warning("token channel: engine %s is silent", engine_id)
            try:
                self._listener.on_silent(engine_id)
            except Exception:
                _logger.exception("token channel: on_silent failed")

    async def close(self) -> None:
        """Stop listening. Engines notice by missing acknowledgements. Idempotent."""
        context, self._context = self._context, None
        if context is None:
            return
        self._timer.cancel()
        self._reader.close()
        self._socket.close(linger=0)
        self._allow_list.close()
        await asyncio.to_thread(context.term)

    def _make_socket(self, context: Context, secret_key: bytes) -> Socket:
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key)
        socket.setsockopt(zmq.ZAP_DOMAIN, b"token-channel")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        limit_socket(socket, self._config)
        return socket

    def _bind(self) -> str:
        host = self._host
        if ipaddress.ip_address(host).version == 6:
            self._socket.setsockopt(zmq.IPV6, 1)
            host = f"[{host}]"
        if self._config.port_range is None:
            port = self._socket.bind_to_random_port(f"tcp://{host}")
        else:
            first, last = self._config.port_range
            port = self._bind_first_free(host, first, last)
        return f"tcp://{host}:{port}"

    def _bind_first_free(self, host: str, first: int, last: int) -> int:
        for port in range(first, last + 1):
            try:
                self._socket.bind(f"tcp://{host}:{port}")
            except zmq.ZMQError as error:
                if error.errno != zmq.EADDRINUSE or port == last:
                    raise
            else:
                return port
        raise AssertionError("the range is never empty")

    def _schedule_check(self) -> None:
        interval_s = self._config.silence_timeout_s / _SWEEPS_PER_TIMEOUT
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._check)

    def _check(self) -> None:
        self._schedule_check()
        self.check_silence(self._clock())

    def _on_message(self, frames: list[bytes]) -> None:
        identity, data = frames[0], frames[-1]
        try:
            engine_id = identity.decode()
            batch = decode_batch(data)
            if batch.status is not None and batch.status.engine_id != engine_id:
                raise MalformedMessage(f"reports for engine {batch.status.engine_id!r}")
        except (MalformedMessage, UnsupportedVersion, UnicodeDecodeError) as error:
            self.stats.refused_messages += 1
            if worth_logging(self.stats.refused_messages):
                _logger.error("token channel: refused a message of engine %r: %s", identity, error)
            return
        if batch.beat is not None:
            self._socket.send_multipart([identity, encode_ack(batch.beat)], zmq.NOBLOCK)
        self.stats.messages += 1
        self.stats.events += len(batch.events)
        self.stats.bytes += len(data)
        self._silence.heard(engine_id, self._clock())
        self._deliver(engine_id, batch)

    def _deliver(self, engine_id: str, batch: Batch) -> None:
        expected = self._next_number.get(engine_id, 0)
        self._next_number[engine_id] = batch.number + 1
        try:
            if batch.events:
                self._listener.on_events(engine_id, batch.events)
        finally:
            if batch.status is not None:
                self._listener.on_status(batch.status)
            if batch.number != expected:
                self.stats.losses += 1
                if self._on_loss is not None:
                    self._on_loss(engine_id)
