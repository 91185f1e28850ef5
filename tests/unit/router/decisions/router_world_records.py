"""What an observer outside of the router writes down of streams, attempts and replicas."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.engine_status import EngineStatus
from serve_app.router.decisions.messages import Offer


@dataclass(slots=True)
class Client:
    """One offered stream, as the observer knows it."""

    offer: Offer
    since: float
    """Since when nothing is computed for it."""
    offered_at: float
    hedged: bool = False
    received: int = 0
    retries: int = 0
    losses: int = 0
    unanswered_since: float | None = None
    group: str | None = None
    """Deployment that it began at."""


@dataclass(slots=True)
class Attempt:
    """What runs at a replica."""

    number: int
    engine: str
    at: float
    accepted: bool = False
    token_at: float | None = None


@dataclass(slots=True)
class Engine:
    """A replica, as far as its reports tell."""

    status: EngineStatus
    stepped_at: float
    silent: bool = False
    said_no: bool = False
