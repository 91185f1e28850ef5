"""What a channel counts about itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SenderStats:
    """Totals of one engine's side since start, over all routers."""

    messages: int = 0
    """Messages handed to ZeroMQ, heartbeats included."""
    events: int = 0
    """Events in these messages."""
    bytes: int = 0
    dropped_events: int = 0
    """Events not sent: the router is unknown, silent, too slow, or unreachable. It re-reads them from the log."""
    acknowledgements: int = 0
    refused_messages: int = 0
    """Messages of a router that could not be understood."""


@dataclass(slots=True)
class ReceiverStats:
    """Totals of one router's side since start, over all engines."""

    messages: int = 0
    """Messages understood, heartbeats included."""
    events: int = 0
    bytes: int = 0
    losses: int = 0
    """Times that at least one message of an engine was found missing."""
    refused_messages: int = 0
    """Messages that could not be understood: malformed, or of another protocol version."""
    refused_connections: int = 0
    """Connections refused for want of the right key."""


def worth_logging(count: int) -> bool:
    """Whether the `count`-th event of a kind is logged: the 1st, 2nd, 4th, 8th and so on, so that floods stay short."""
    return count & (count - 1) == 0
