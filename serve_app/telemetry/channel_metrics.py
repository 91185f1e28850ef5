"""What both ends of the token channel have counted, as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class ChannelCounts:
    """What a router's end of the token channel has counted since it was opened; never falls."""

    messages: int = 0
    """Messages received."""
    dropped: int = 0
    """Messages thrown away: not authentic, of another version, or malformed."""
    gaps: int = 0
    """Gaps in a stream's token index, re-read from the engine's retained log or failed."""
    silent_engines: int = 0
    """Times that an engine replica's heartbeats stopped."""


@dataclass(frozen=True, slots=True)
class SentCounts:
    """What an engine's end of the token channel has counted since it was opened; never falls."""

    messages: int = 0
    events: int = 0
    bytes: int = 0
    unsent_events: int = 0
    """Events that could not be sent, and are read from the retained log instead."""
    acknowledgements: int = 0
    refused_messages: int = 0
    """Messages of routers that could not be understood."""


class ReceiverCollector(Collector):
    """Shows the `counts` that it was given last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counts = ChannelCounts()
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """One counter per field."""
        counts = self.counts
        yield CounterMetricFamily("serve_app_channel_messages", "Token channel messages received.", counts.messages)
        yield CounterMetricFamily(
            "serve_app_channel_dropped", "Token channel messages thrown away as invalid.", counts.dropped
        )
        yield CounterMetricFamily(
            "serve_app_channel_gaps", "Gaps in a stream's tokens on the token channel.", counts.gaps
        )
        yield CounterMetricFamily(
            "serve_app_channel_silent_engines", "Times that an engine's heartbeats stopped.", counts.silent_engines
        )


class _SenderCollector(Collector):
    def __init__(self, counts: SentCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """One counter per field."""
        counts = self._counts
        for name, meaning, value in (
            ("sent_messages", "Messages sent to routers, heartbeats included.", counts.messages),
            ("sent_events", "Events in the messages sent.", counts.events),
            ("sent_bytes", "Bytes of the messages sent.", counts.bytes),
            ("unsent_events", "Events that a router could not be sent.", counts.unsent_events),
            ("acknowledgements", "Acknowledgements of routers.", counts.acknowledgements),
            ("refused_messages", "Messages of routers that were not understood.", counts.refused_messages),
        ):
            yield CounterMetricFamily(f"serve_app_channel_{name}", meaning, value)


def sent_text(counts: SentCounts) -> bytes:
    """`counts` in Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_SenderCollector(counts))
    return generate_latest(registry)
