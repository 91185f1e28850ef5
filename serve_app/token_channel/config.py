"""Settings of the token channel between engine and router replicas."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_MIB = 1024 * 1024
Port = Annotated[int, Field(ge=1024, le=65535)]


class ChannelConfig(BaseModel):
    """How routers and engines exchange tokens. The same values apply to both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "auto"
    """Address that each router binds and that engines connect to. "auto" is the address of the router's own node."""
    port_range: tuple[Port, Port] | None = None
    """First and last TCP port to try, for firewalls; None takes any free port."""
    heartbeat_interval_s: float = Field(default=1.0, gt=0)
    """Seconds after which an engine reports its status at the latest, with or without tokens to send."""
    status_interval_s: float = Field(default=0.1, gt=0)
    """Seconds between two status reports at least: changes in between are sent together. Also the timer's period."""
    silence_timeout_s: float = Field(default=3.0, gt=0)
    """Seconds without a message after which a peer counts as lost. Three missed heartbeats by default."""
    forget_router_after_s: float = Field(default=60.0, gt=0)
    """Seconds of silence after which an engine stops trying to reach a router; it may be attached again later."""
    high_water_mark: int = Field(default=1000, ge=1)
    """Messages that ZeroMQ holds per engine and router on either side; more are dropped by the engine."""
    max_unacknowledged_bytes: int = Field(default=16 * _MIB, ge=1)
    """Bytes that an engine sends to one router ahead of its acknowledgements; more are dropped. Bounds memory where
    the high-water mark, which counts messages of any size, does not."""
    max_batch_events: int = Field(default=1024, ge=1)
    """Events in one message at most: bounds how long the receiver's event loop is held by one message."""
    max_message_bytes: int = Field(default=16 * _MIB, ge=4096)
    """Size of one message at most; the engine splits larger batches, the router disconnects who sends more."""

    @field_validator("host")
    @classmethod
    def _host_can_be_reached(cls, host: str) -> str:
        if host == "auto":
            return host
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError('must be "auto" or an IP address of the node') from None
        if address.is_unspecified:
            raise ValueError("must be an address that engines can connect to, not a wildcard")
        return host

    @model_validator(mode="after")
    def _intervals_fit(self) -> Self:
        if self.status_interval_s > self.heartbeat_interval_s:
            raise ValueError("status_interval_s must not exceed heartbeat_interval_s")
        if self.silence_timeout_s < 2 * self.heartbeat_interval_s:
            raise ValueError("silence_timeout_s must be at least twice heartbeat_interval_s")
        if self.port_range is not None and self.port_range[0] > self.port_range[1]:
            raise ValueError("port_range must be [first, last] with first <= last")
        return self
