"""What an engine needs to reach one router."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ChannelEndpoint:
    """Address and keys of one router's socket. Made anew at each start of a router, and handed to engines over the
    Serve handle only: who holds it can send to that router. Picklable; the secret is not printed.
    """

    version: int
    """Protocol version that the router speaks."""
    router_id: str
    address: str
    """ZeroMQ address, as `tcp://10.0.0.7:41234`."""
    server_public_key: bytes
    """The router's CURVE key in Z85: engines talk to nobody else."""
    client_public_key: bytes
    client_secret_key: bytes = field(repr=False)
    """The key pair by which the router knows its engines, in Z85."""


@dataclass(frozen=True, slots=True)
class LiveStreams:
    """What one router still wants of an engine, at one moment."""

    router_id: str
    newest: int
    """Highest stream id given out so far: nothing is said about later ones."""
    attempts: dict[int, int]
    """Current attempt by id, of the streams that have not ended."""

    def wants(self, key: tuple[str, int, int]) -> bool:
        """Whether the generation `(router id, stream id, attempt)` may go on; another router's always may."""
        router_id, stream_id, attempt = key
        if router_id != self.router_id or stream_id > self.newest:
            return True
        return attempt >= self.attempts.get(stream_id, attempt + 1)


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the events of one generation go: a router, and the attempt of a stream there."""

    endpoint: ChannelEndpoint
    stream_id: int
    attempt: int

    @property
    def key(self) -> tuple[str, int, int]:
        """(router id, stream id, attempt): unique among all generations."""
        return (self.endpoint.router_id, self.stream_id, self.attempt)
