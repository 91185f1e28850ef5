"""What the router's decision core is told (`Happened`) and what it orders (`Command`)."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import ServeAppError
from serve_app.core.request import ANONYMOUS_TENANT, Priority
from serve_app.telemetry.reasons import RefusalReason, RequeueReason

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
    tenant: str = ANONYMOUS_TENANT
    priority: Priority = Priority.DEFAULT
    continuable: bool = True
    """Whether another replica could go on with its output."""
    taken_over: int | None = None
    """Output tokens that it had when this router took it over from another one, which had admitted it; None: it is
    new."""
    hedgeable: bool = True
    """Whether two attempts of it may run at once."""
    choices: int = 1
    """Outputs of the one prompt; each takes a place of its own in an engine's batch. `max_tokens` is of one of them."""
    least_prompt_tokens: int = 0
    """Prompt tokens that it certainly has."""
    groups: frozenset[str] | None = None
    """Deployments that can compute it; None: every one of the pool."""


@dataclass(frozen=True, slots=True)
class EngineReported:
    """A heartbeat came."""

    status: EngineStatus


@dataclass(frozen=True, slots=True)
class ReplicasListed:
    """Serve's present list of running replicas of one deployment, which is one group of a model's pool."""

    model: str
    engine_ids: frozenset[str]
    group: str = ""
    """Name of the deployment. Lists of other groups stay as they are."""


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
class AttemptFailed:
    """The engine failed this attempt, or part of its output was lost on the way."""

    stream_id: int
    attempt: int
    error: ServeAppError


@dataclass(frozen=True, slots=True)
class HedgeWon:
    """The second of two concurrent attempts gave the first token. Tell it before `tokens_received`."""

    stream_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over, for whatever reason: finished, failed, cancelled or cut."""

    stream_id: int
    completed: bool


@dataclass(frozen=True, slots=True)
class RoomMade:
    """First tokens came, so engines have room for other prompts, and second attempts are not needed any more; sent when
    `tokens_received` says so."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent every 100 ms, and when a `TickAt` asked for it."""


Happened = (
    Offer
    | EngineReported
    | ReplicasListed
    | EngineGone
    | EngineAccepted
    | DispatchRefused
    | AttemptFailed
    | HedgeWon
    | Ended
    | RoomMade
    | Tick
)

# --- what to do


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the stream's request to this engine replica, as this attempt."""

    stream_id: int
    attempt: int
    engine_id: str
    replay: bool = False
    """Output was received before: the replica goes on with it."""
    hedge: bool = False
    """A second attempt beside the present one, which goes on: the first of them to give a token wins."""
    group: str = ""
    """Deployment of the replica."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Cancel this attempt's call; its late events are void. The request waits again, or goes on with its other attempt
    if there are two."""

    stream_id: int
    attempt: int
    reason: RequeueReason
    wasted_tokens: int = 0
    """Prompt and output tokens that will be computed a second time."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End the stream with this error."""

    stream_id: int
    error: ServeAppError
    refusal: RefusalReason | None = None
    """Set when the request was refused, and not failed."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Requests wait for a model that has no replica: make Serve see the demand."""

    model: str


@dataclass(frozen=True, slots=True)
class TickAt:
    """Send a `Tick` at this clock reading (seconds), beside the regular ones."""

    at: float


Command = Dispatch | Withdraw | Fail | Wake | TickAt
