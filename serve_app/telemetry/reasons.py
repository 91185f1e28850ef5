"""Why things happened to requests: the values of the labels `reason` and `outcome`, but for a request's own outcome."""

from __future__ import annotations

import enum

from serve_app.core.outcome import RequestOutcome


class RequeueReason(enum.StrEnum):
    """Why a dispatched request was taken from its engine replica to be sent to another; also a metric label."""

    ENGINE_FULL = "engine_full"
    """The engine replica ran as many generations as it may."""
    WRONG_REPLICA = "wrong_replica"
    """Serve delivered the call to another replica than the one picked."""
    NOT_ACCEPTED = "not_accepted"
    """No answer came within the accept timeout."""
    ENGINE_LOST = "engine_lost"
    """The replica or its channel went away."""
    ENGINE_FAILED = "engine_failed"
    """The engine raised."""
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    """No first token came in time."""
    STALLED = "stalled"
    """Tokens stopped coming."""
    DRAINING = "draining"
    """The replica is being removed, and another one goes on."""
    OUTRUN = "outrun"
    """Another attempt of the same request gave the first token."""


REPEATING = (
    RequeueReason.ENGINE_LOST,
    RequeueReason.ENGINE_FAILED,
    RequeueReason.FIRST_TOKEN_TIMEOUT,
    RequeueReason.STALLED,
    RequeueReason.DRAINING,
)
"""Reasons after which the next dispatch is a retry or a failover; after the others, the replica had not begun."""


class RefusalReason(enum.StrEnum):
    """Why a request was not admitted; also a metric label."""

    QUEUE_FULL = "queue_full"
    """Its band of the queue had no place."""
    DISPLACED = "displaced"
    """Its place went to a tenant below its fair share."""
    WAITED = "waited"
    """It waited in the queue, or in line for a place, for as long as is allowed."""
    DEADLINE = "deadline"
    """It could not have met its deadline."""
    OBJECTIVE = "objective"
    """It could not have met the objective for the first token."""
    NO_ENGINE = "no_engine"
    """No engine replica was ready, or took it, in time."""


REFUSED_AT_ONCE = frozenset({RefusalReason.QUEUE_FULL, RefusalReason.DEADLINE, RefusalReason.OBJECTIVE})
"""Refusals before any wait."""
REFUSALS = frozenset({RequestOutcome.QUEUE_FULL, RequestOutcome.DEADLINE_UNATTAINABLE, RequestOutcome.NO_ENGINE})
"""Outcomes of requests that were refused; each has a `RefusalReason`."""


class QueueOutcome(enum.StrEnum):
    """How a request's wait for an engine ended; also a metric label."""

    ADMITTED = "admitted"
    """An engine replica took it."""
    REFUSED = "refused"
    """At once, or after waiting in vain."""
    EXPIRED = "expired"
    """Its deadline passed."""
    CANCELLED = "cancelled"
    """The client went away."""
    FAILED = "failed"
    """Something went wrong, as an engine that found the request invalid."""


_QUEUE_OUTCOMES = {
    RequestOutcome.COMPLETED: QueueOutcome.ADMITTED,
    RequestOutcome.CANCELLED: QueueOutcome.CANCELLED,
    RequestOutcome.DEADLINE_EXCEEDED: QueueOutcome.EXPIRED,
    **dict.fromkeys(REFUSALS, QueueOutcome.REFUSED),
}


def queue_outcome(outcome: RequestOutcome) -> QueueOutcome:
    """How the wait of a request ended that settled with `outcome` before an engine took it."""
    return _QUEUE_OUTCOMES.get(outcome, QueueOutcome.FAILED)


class HedgeOutcome(enum.StrEnum):
    """What became of the second, concurrent attempt of a request; also a metric label."""

    WON = "won"
    """It gave the first token, or went on when the first attempt had failed."""
    LOST = "lost"
    """The first attempt gave the first token."""
    FAILED = "failed"
    """It was refused, lost or failed; the first attempt went on."""
    UNDECIDED = "undecided"
    """The request ended before a first token, as by its client's leaving."""


class ResumedFrom(enum.StrEnum):
    """Where a resumed stream was found; also a metric label."""

    HERE = "here"
    """At the router replica that was asked."""
    ROUTER = "router"
    """At another router replica, which gave it up."""
    ENGINE = "engine"
    """At an engine replica, since its router is gone."""


class WasteReason(enum.StrEnum):
    """Why tokens were computed that served nobody; also a metric label."""

    # computed a second time, after a requeue for this reason
    ENGINE_LOST = "engine_lost"
    ENGINE_FAILED = "engine_failed"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    STALLED = "stalled"
    DRAINING = "draining"

    TAKEN_OVER = "taken_over"
    """After a stream went from one router replica to another."""

    # prompts of attempts beside which another one gave the first token
    OUTRUN = "outrun"

    # output of a stream that nobody read to its end
    CANCELLED = "cancelled"
    """The client went away or cancelled."""
    CLIENT_TOO_SLOW = "client_too_slow"
    """The client did not read."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """The deadline passed before the end."""
    UNFINISHED = "unfinished"
    """It failed before the end."""


_WASTE_REASONS = {
    RequestOutcome.CANCELLED: WasteReason.CANCELLED,
    RequestOutcome.CLIENT_TOO_SLOW: WasteReason.CLIENT_TOO_SLOW,
    RequestOutcome.DEADLINE_EXCEEDED: WasteReason.DEADLINE_EXCEEDED,
}


def waste_reason(outcome: RequestOutcome) -> WasteReason | None:
    """Why the output of a stream that settled with `outcome` was wasted; None when it was not."""
    if outcome is RequestOutcome.COMPLETED:
        return None
    return _WASTE_REASONS.get(outcome, WasteReason.UNFINISHED)
