"""What one stream tells the metrics, from its offer until it is settled.

The clock reading is handed in (monotonic seconds), so the same code counts in virtual time. One stream makes at most
six kinds of calls; `on_tokens`, the one made for every engine step, costs about 0.5 µs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import Priority
from serve_app.telemetry.local_metrics import CounterCell, HistogramCell
from serve_app.telemetry.reasons import (
    REFUSALS,
    REFUSED_AT_ONCE,
    REPEATING,
    HedgeOutcome,
    QueueOutcome,
    RefusalReason,
    RequeueReason,
    ResumedFrom,
    WasteReason,
    queue_outcome,
    waste_reason,
)


@dataclass(frozen=True, slots=True)
class BandMetrics:
    """The metrics of one priority band of one model's queue."""

    depth: Gauge
    tokens: Gauge
    wait_s: Histogram
    outcomes: Mapping[QueueOutcome, CounterCell]


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The metrics of one model with their labels resolved, so that no stream looks one up."""

    ttft_s: Histogram
    tpot_s: Histogram
    itl_s: HistogramCell
    duration_s: Histogram
    concurrent: Gauge
    prompt_tokens: Counter
    cached_prompt_tokens: Counter
    output_tokens: CounterCell
    outcomes: Mapping[RequestOutcome, Counter]
    drops: Mapping[RequestOutcome, Counter]
    requeues: Mapping[RequeueReason, Counter]
    retry_budget_left: Gauge
    retry_budget_used: Gauge
    retries: Mapping[RequeueReason, CounterCell]
    failovers: Mapping[RequeueReason, CounterCell]
    hedges: Mapping[HedgeOutcome, CounterCell]
    refusals: Mapping[RefusalReason, CounterCell]
    wasted_tokens: Mapping[WasteReason, CounterCell]
    bands: Mapping[Priority, BandMetrics]


class StreamMetrics:
    """Counts one stream, from one thread. Always call `settled`; only its first call counts.

    The public attributes are what the request log needs; counts of tokens are whole once it is settled. The tokens so
    far are counted by the router's decision core, which is asked for them then.
    """

    __slots__ = (
        "_active",
        "_band",
        "_choices",
        "_dispatched_at",
        "_engines",
        "_first_at",
        "_last_at",
        "_model",
        "_offered_at",
        "_repeat",
        "_settled",
        "_taken_tokens",
        "_waits",
        "attempts",
        "cached_tokens",
        "duration_s",
        "failovers",
        "hedges",
        "output_tokens",
        "prompt_tokens",
        "refusal",
        "repeated_tokens",
        "resumes",
        "retries",
        "taken_from",
    )

    def __init__(
        self, model: ModelMetrics, now: float, choices: int = 1, priority: Priority = Priority.DEFAULT
    ) -> None:
        self._model = model
        self._band = model.bands[priority]
        self._offered_at = now
        self._choices = choices
        self._dispatched_at: float | None = None
        self._first_at: float | None = None
        self._last_at = now
        self._active = False
        self._waits = True
        self._settled = False
        self._engines: tuple[str, ...] = ()
        self._repeat: tuple[RequeueReason, int] | None = None
        self._taken_tokens = 0
        self.attempts = 0
        self.retries = 0
        self.failovers = 0
        self.hedges = 0
        self.repeated_tokens = 0
        self.resumes = 0
        self.taken_from: ResumedFrom | None = None
        self.refusal: RefusalReason | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens = 0
        self.output_tokens = 0
        self.duration_s: float | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the offer to the first token; None before it, and for a stream that another router began."""
        return None if self.taken_from is not None or self._first_at is None else self._first_at - self._offered_at

    @property
    def queue_wait_s(self) -> float | None:
        """Seconds from the offer to the dispatch that an engine accepted first, or the latest one; None before any."""
        return None if self._dispatched_at is None else self._dispatched_at - self._offered_at

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per output token of a choice after its first; None below two tokens a choice, and for a stream
        that another router began."""
        gaps = self.output_tokens / self._choices - 1
        if self._first_at is None or gaps <= 0 or self.taken_from is not None:
            return None
        return (self._last_at - self._first_at) / gaps

    @property
    def engines_tried(self) -> int:
        """Engine replicas that it was sent to."""
        return len(self._engines)

    def dispatched(self, now: float, engine_id: str = "", replay: bool = False) -> None:
        """The request was sent to an engine replica; called for every attempt.

        With `replay` the replica goes on with output that was delivered before.
        """
        self.attempts += 1
        if self._waits:
            self._dispatched_at = now
        if engine_id not in self._engines:
            self._engines += (engine_id,)
        if self._repeat is not None:
            self._repeated(*self._repeat, replay)
        elif self._taken_tokens:
            self.repeated_tokens += self._taken_tokens
            self._model.wasted_tokens[WasteReason.TAKEN_OVER].value += self._taken_tokens
        self._taken_tokens = 0
        self._set_active(True)

    def taken_over(self, taken_from: ResumedFrom, prompt_tokens: int, output_tokens: int, now: float) -> None:
        """Another router began the stream: what it has counted is not counted again, and nobody knows its times. Call
        it first."""
        self.taken_from = taken_from
        self._waits = False
        if prompt_tokens:
            self.prompt_tokens = prompt_tokens
            self._taken_tokens = prompt_tokens + output_tokens
        if output_tokens:
            self._first_at = self._last_at = now

    def handed_over(self, output_tokens: int = 0) -> None:
        """Another router goes on with the stream, which has so many output tokens, and counts its outcome."""
        self._settled = True
        self.output_tokens = output_tokens
        self._set_active(False)

    def requeued(self, reason: RequeueReason, wasted_tokens: int = 0) -> None:
        """The dispatch came to nothing and the request waits again.

        `wasted_tokens` of prompt and output have to be computed once more; 0 when the replica had not begun.
        """
        self._model.requeues[reason].inc()
        # A replica that was lost before it answered is like one that did not take the request.
        if reason in REPEATING and (wasted_tokens or reason is not RequeueReason.ENGINE_LOST):
            self._repeat = (reason, wasted_tokens)
        self._set_active(False)

    def hedged(self, engine_id: str) -> None:
        """A second attempt was sent to this engine replica, beside the present one. One `hedge_settled` follows."""
        self.attempts += 1
        self.hedges += 1
        if engine_id not in self._engines:
            self._engines += (engine_id,)

    def hedge_settled(self, outcome: HedgeOutcome, reason: RequeueReason, wasted_tokens: int) -> None:
        """One of two attempts goes on alone, or the stream ended with both; why the other one was given up, and the
        tokens of its prompt if its engine had begun."""
        model = self._model
        model.hedges[outcome].value += 1
        if outcome is not HedgeOutcome.UNDECIDED:
            model.requeues[reason].inc()
        waste = WasteReason(reason.value) if reason in REPEATING else WasteReason.OUTRUN
        model.wasted_tokens[waste].value += wasted_tokens
        self.repeated_tokens += wasted_tokens

    def accepted(self, prompt_tokens: int) -> None:
        """The engine counted the prompt, so the queue wait ended at the latest dispatch. Repeats count nothing."""
        self._left_queue(QueueOutcome.ADMITTED, self._dispatched_at)
        if self.prompt_tokens is None:
            self.prompt_tokens = prompt_tokens
            self._model.prompt_tokens.inc(prompt_tokens)

    def refused(self, reason: RefusalReason | None) -> None:
        """The request is not admitted, for this reason; None: it fails for another one. `settled` follows."""
        self.refusal = reason

    def on_tokens(self, count: int, now: float) -> None:
        """`count` output tokens came at `now`. The first call marks the first token.

        Each later instant is one observation of the inter-token latency, as in vLLM, however many tokens came
        with it; several calls for one instant (the choices of one engine step) are one.
        """
        model = self._model
        model.output_tokens.value += count
        if self._first_at is None:
            self._first_at = self._last_at = now
            if self.taken_from is None:
                model.ttft_s.observe(now - self._offered_at)
            return
        gap = now - self._last_at
        if gap > 0.0:
            self._last_at = now
            itl = model.itl_s
            itl.counts[bisect_left(itl.bounds, gap)] += 1
            itl.total += gap

    def settled(self, outcome: RequestOutcome, now: float, *, output_tokens: int = 0, cached_tokens: int = 0) -> None:
        """The stream is over, with so many output tokens over all routers that ran it. `cached_tokens` of the prompt
        came from the prefix cache."""
        if self._settled:
            return
        self._settled = True
        model = self._model
        self._set_active(False)
        self.duration_s = now - self._offered_at
        self.output_tokens = output_tokens
        self.cached_tokens = cached_tokens
        model.outcomes[outcome].inc()
        if outcome in model.drops:
            model.drops[outcome].inc()
        if outcome not in REFUSALS:
            # Whoever was served for a while, and then waited in vain for another replica, was not refused but failed.
            self.refusal = None
        if self.refusal is not None:
            model.refusals[self.refusal].value += 1
        waited = outcome is not RequestOutcome.INVALID and self.refusal not in REFUSED_AT_ONCE
        until = now if self._dispatched_at is None else self._dispatched_at
        self._left_queue(queue_outcome(outcome), until if waited else None)
        waste = waste_reason(outcome)
        if waste is not None:
            model.wasted_tokens[waste].value += self.output_tokens
        if cached_tokens:
            model.cached_prompt_tokens.inc(cached_tokens)
        if self._first_at is not None and self.taken_from is None:
            model.duration_s.observe(self.duration_s)
            tpot_s = self.tpot_s
            if tpot_s is not None:
                model.tpot_s.observe(tpot_s)

    def _repeated(self, reason: RequeueReason, tokens: int, replay: bool) -> None:
        """Counted at the dispatch that repeats the work: a stream that ends before it repeats nothing."""
        self._repeat = None
        model = self._model
        if replay:
            self.failovers += 1
            model.failovers[reason].value += 1
        else:
            self.retries += 1
            model.retries[reason].value += 1
        self.repeated_tokens += tokens
        model.wasted_tokens[WasteReason(reason.value)].value += tokens

    def _left_queue(self, outcome: QueueOutcome, until: float | None) -> None:
        """The first wait for an engine ended; at clock reading `until`, if it was a wait."""
        if self._waits:
            self._waits = False
            self._band.outcomes[outcome].value += 1
            if until is not None:
                self._band.wait_s.observe(until - self._offered_at)

    def _set_active(self, active: bool) -> None:
        if active != self._active:
            self._active = active
            self._model.concurrent.inc(1 if active else -1)
