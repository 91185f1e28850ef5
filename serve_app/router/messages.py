"""What the router's decision core is told (`Happened`) and what it orders (`Command`)."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import ServeAppError
from serve_app.telemetry.stream_metrics import RequeueReason

# --- what happened


@dataclass(frozen=True, slots=True)
class Offer:
    """A new request. Token counts are estimates."""

    stream_id: int
    model: str
    prompt_tokens: int
    max_tokens: int | None
    deadline: float | None
    """Clock reading in seconds after which nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class EngineReported:
    """A heartbeat came."""

    status: EngineStatus


@dataclass(frozen=True, slots=True)
class ReplicasListed:
    """Serve's present list of running replicas of a model."""

    model: str
    engine_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class EngineGone:
    """An engine replica died (`EngineLost`) or fell silent (`ChannelLost`)."""

    engine_id: str
    error: ServeAppError


@dataclass(frozen=True, slots=True)
class EngineAccepted:
    """The engine replica took the dispatched request and counted its prompt."""

    stream_id: int
    attempt: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class DispatchRefused:
    """The engine replica, or Serve on its behalf, did not take the request; nothing was computed."""

    stream_id: int
    attempt: int
    reason: RequeueReason


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over, for whatever reason: finished, failed, cancelled or cut."""

    stream_id: int
    output_tokens: int
    completed: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent every 100 ms."""


Happened = Offer | EngineReported | ReplicasListed | EngineGone | EngineAccepted | DispatchRefused | Ended | Tick

# --- what to do


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the stream's request to this engine replica, as this attempt."""

    stream_id: int
    attempt: int
    engine_id: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Cancel this attempt's call; its late events are void, and the request waits again."""

    stream_id: int
    attempt: int
    reason: RequeueReason


@dataclass(frozen=True, slots=True)
class Fail:
    """End the stream with this error."""

    stream_id: int
    error: ServeAppError


@dataclass(frozen=True, slots=True)
class Wake:
    """Requests wait for a model that has no replica: make Serve see the demand."""

    model: str


Command = Dispatch | Withdraw | Fail | Wake
