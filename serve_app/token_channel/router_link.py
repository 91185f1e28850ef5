"""One engine's connection to one router."""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq

from serve_app.core.engine_status import EngineStatus
from serve_app.token_channel.codec import (
    Batch,
    MalformedMessage,
    UnsupportedVersion,
    WireEvent,
    decode_ack,
    encode_batch,
)
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint
from serve_app.token_channel.sockets import Context, SocketReader, limit_socket
from serve_app.token_channel.stats import SenderStats, worth_logging

_logger = logging.getLogger(__name__)

_RECONNECT_MS = 100
_MAX_RECONNECT_MS = 2000
_LINGER_MS = 500


class RouterLink:
    """Sends batches to one router, and drops what the router cannot take. Never blocks. Use it from one event loop."""

    def __init__(
        self,
        context: Context,
        endpoint: ChannelEndpoint,
        engine_id: str,
        config: ChannelConfig,
        stats: SenderStats,
        on_ack: Callable[[str], None],
    ) -> None:
        """`on_ack(router_id)` is called at each sign of life."""
        self.endpoint = endpoint
        self.pending: list[WireEvent] = []
        """Events to be sent by the next `flush`."""
        self.silent_since: float | None = None
        """Clock reading at which the router was found silent; while it is set, events are dropped."""
        self.report: EngineStatus | None = None
        """The last report sent."""
        self.report_sent_at = float("-inf")
        self._config = config
        self._stats = stats
        self._on_ack = on_ack
        self._number = 0
        self._sent_bytes = 0
        self._acknowledged_bytes = 0
        self._acknowledged_beat = -1
        self._socket = context.socket(zmq.DEALER)
        limit_socket(self._socket, config)
        for option, value in (
            (zmq.ROUTING_ID, engine_id.encode()),
            (zmq.CURVE_SERVERKEY, endpoint.server_public_key),
            (zmq.CURVE_PUBLICKEY, endpoint.client_public_key),
            (zmq.CURVE_SECRETKEY, endpoint.client_secret_key),
            (zmq.RECONNECT_IVL, _RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, _MAX_RECONNECT_MS),
            (zmq.IPV6, int("[" in endpoint.address)),
        ):
            self._socket.setsockopt(option, value)
        self._socket.connect(endpoint.address)
        self._reader = SocketReader(self._socket, self._on_message)

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes sent since the last acknowledged report was."""
        return self._sent_bytes - self._acknowledged_bytes

    @property
    def mark(self) -> int:
        """The present place in what is sent: reports that are made later are behind it."""
        return self._sent_bytes

    def acknowledged_since(self, mark: int) -> bool:
        """Whether the router has acknowledged a report that was made after `mark`, and so has all that came before."""
        return self._acknowledged_beat >= mark

    def flush(self, now: float, status: EngineStatus | None) -> None:
        """Send the pending events, and `status` when given, in one message unless they are too large for one."""
        events, self.pending = self.pending, []
        if self.silent_since is not None:
            self._drop(events)
            events = []
        if status is not None:
            self.report = status
            self.report_sent_at = now
        if events or status is not None:
            self._send(events, status)
            self._reader.catch_up()

    def read_acks(self) -> None:
        """Take in all acknowledgements that have arrived."""
        self._reader.read_all()

    def close(self, linger: bool) -> None:
        """Disconnect; with `linger`, ZeroMQ still tries for half a second to deliver what was sent."""
        self._reader.close()
        self._socket.close(linger=_LINGER_MS if linger else 0)

    def _send(self, events: list[WireEvent], status: EngineStatus | None) -> None:
        beat = None if status is None else self._sent_bytes
        data = encode_batch(Batch(self._number, events, status, beat))
        if len(data) > self._config.max_message_bytes and len(events) > 1:
            middle = len(events) // 2
            self._send(events[:middle], None)
            self._send(events[middle:], status)
            return
        self._number += 1
        if events and self.unacknowledged_bytes + len(data) > self._config.max_unacknowledged_bytes:
            self._drop(events)
            if status is not None:
                self._send([], status)
            return
        if len(data) > self._config.max_message_bytes or not self._try_send(data):
            self._drop(events)
            return
        self._stats.events += len(events)

    def _try_send(self, data: bytes) -> bool:
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._sent_bytes += len(data)
        self._stats.messages += 1
        self._stats.bytes += len(data)
        return True

    def _drop(self, events: list[WireEvent]) -> None:
        self._stats.dropped_events += len(events)

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            beat = decode_ack(frames[-1])
        except (MalformedMessage, UnsupportedVersion) as error:
            self._stats.refused_messages += 1
            if worth_logging(self._stats.refused_messages):
                _logger.error("token channel: refused a message of router %s: %s", self.endpoint.router_id, error)
            return
        self._stats.acknowledgements += 1
        self._acknowledged_bytes = max(self._acknowledged_bytes, min(beat, self._sent_bytes))
        self._acknowledged_beat = max(self._acknowledged_beat, self._acknowledged_bytes)
        self._on_ack(self.endpoint.router_id)
