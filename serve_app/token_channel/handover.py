"""What routers and engines say to each other when a kept answer changes its owner."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.errors import ServeAppError
from serve_app.core.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Claim:
    """A router looks for a kept answer."""

    key: str
    tenant: str
    router_id: str
    """Who asks."""
    take: bool = True
    """The holder gives the answer up. False: it only tells how the answer stands."""
    cancels: bool = False
    """The answer is not to go on. Its present readers are told so."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A kept answer as its holder had it. With `Claim.take` the holder has ended its own part before it says so."""

    request: GenerationRequest
    """As it was opened, with the time that is left."""
    parts: tuple[bytes, ...]
    """The events from `Accepted` on, as `EventLog.parts` gives them."""
    position: int
    """Position by their end: of several parts of one stream, as after a failover, the longest goes on."""
    ended: bool
    error: ServeAppError | None = None
    """What ended it, unless it was completed."""
    settled: bool = True
    """Whether its outcome was counted; of answers that have ended."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The answer was here a moment ago: somebody took it, who may not have it yet."""


ClaimReply = HandedOver | Moved | None
"""What a router or engine replica says to a `Claim`; None when it knows nothing of the answer."""
