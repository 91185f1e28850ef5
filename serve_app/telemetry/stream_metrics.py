"""What one stream tells the metrics, from its offer until it is settled.

The clock reading is handed in (monotonic seconds), so the same code counts in virtual time. One stream makes at most
six kinds of calls; `on_tokens`, the one made for every engine step, costs about 0.5 µs.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from serve_app.core.outcome import RequestOutcome
from serve_app.telemetry.local_metrics import CounterCell, HistogramCell


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


_DROPS = {RequestOutcome.CANCELLED, RequestOutcome.CLIENT_TOO_SLOW}
_NEVER_WAITED = {RequestOutcome.INVALID, RequestOutcome.QUEUE_FULL}


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The metrics of one model with their labels resolved, so that no stream looks one up."""

    ttft_s: Histogram
    tpot_s: Histogram
    itl_s: HistogramCell
    duration_s: Histogram
    queue_wait_s: Histogram
    concurrent: Gauge
    queue_depth: Gauge
    queue_tokens: Gauge
    prompt_tokens: Counter
    cached_prompt_tokens: Counter
    output_tokens: CounterCell
    outcomes: dict[RequestOutcome, Counter]
    drops: dict[RequestOutcome, Counter]
    requeues: dict[RequeueReason, Counter]


class StreamMetrics:
    """Counts one stream, from one thread. Always call `settled`; only its first call counts.

    The public attributes are what the request log needs.
    """

    __slots__ = (
        "_active",
        "_choices",
        "_dispatched_at",
        "_first_at",
        "_last_at",
        "_model",
        "_offered_at",
        "_settled",
        "_wait_observed",
        "attempts",
        "cached_tokens",
        "duration_s",
        "output_tokens",
        "prompt_tokens",
    )

    def __init__(self, model: ModelMetrics, now: float, choices: int = 1) -> None:
        self._model = model
        self._offered_at = now
        self._choices = choices
        self._dispatched_at: float | None = None
        self._first_at: float | None = None
        self._last_at = now
        self._active = False
        self._wait_observed = False
        self._settled = False
        self.attempts = 0
        self.prompt_tokens: int | None = None
        self.cached_tokens = 0
        self.output_tokens = 0
        self.duration_s: float | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the offer to the first token; None before it."""
        return None if self._first_at is None else self._first_at - self._offered_at

    @property
    def queue_wait_s(self) -> float | None:
        """Seconds from the offer to the latest dispatch; None before it."""
        return None if self._dispatched_at is None else self._dispatched_at - self._offered_at

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per output token of a choice after its first; None below two tokens a choice."""
        gaps = self.output_tokens / self._choices - 1
        if self._first_at is None or gaps <= 0:
            return None
        return (self._last_at - self._first_at) / gaps

    def dispatched(self, now: float) -> None:
        """The request was sent to an engine replica; called for every attempt."""
        self.attempts += 1
        self._dispatched_at = now
        self._set_active(True)

    def requeued(self, reason: RequeueReason) -> None:
        """The dispatch came to nothing and the request waits again."""
        self._model.requeues[reason].inc()
        self._set_active(False)

    def accepted(self, prompt_tokens: int) -> None:
        """The engine counted the prompt, so the queue wait ended at the latest dispatch. Repeats count nothing."""
        self._observe_wait(self._dispatched_at)
        if self.prompt_tokens is None:
            self.prompt_tokens = prompt_tokens
            self._model.prompt_tokens.inc(prompt_tokens)

    def on_tokens(self, count: int, now: float) -> None:
        """`count` output tokens came at `now`. The first call marks the first token.

        Each later instant is one observation of the inter-token latency, as in vLLM, however many tokens came
        with it; several calls for one instant (the choices of one engine step) are one.
        """
        model = self._model
        model.output_tokens.value += count
        self.output_tokens += count
        if self._first_at is None:
            self._first_at = self._last_at = now
            model.ttft_s.observe(now - self._offered_at)
            return
        gap = now - self._last_at
        if gap > 0.0:
            self._last_at = now
            itl = model.itl_s
            itl.counts[bisect_left(itl.bounds, gap)] += 1
            itl.total += gap

    def settled(self, outcome: RequestOutcome, now: float, cached_tokens: int = 0) -> None:
        """The stream is over. `cached_tokens` of the prompt came from the prefix cache."""
        if self._settled:
            return
        self._settled = True
        model = self._model
        self._set_active(False)
        self.duration_s = now - self._offered_at
        self.cached_tokens = cached_tokens
        model.outcomes[outcome].inc()
        if outcome in _DROPS:
            model.drops[outcome].inc()
        if outcome not in _NEVER_WAITED:
            self._observe_wait(self._dispatched_at if self._dispatched_at is not None else now)
        if cached_tokens:
            model.cached_prompt_tokens.inc(cached_tokens)
        if self._first_at is not None:
            model.duration_s.observe(self.duration_s)
            tpot_s = self.tpot_s
            if tpot_s is not None:
                model.tpot_s.observe(tpot_s)

    def _observe_wait(self, until: float | None) -> None:
        if until is not None and not self._wait_observed:
            self._wait_observed = True
            self._model.queue_wait_s.observe(until - self._offered_at)

    def _set_active(self, active: bool) -> None:
        if active != self._active:
            self._active = active
            self._model.concurrent.inc(1 if active else -1)
