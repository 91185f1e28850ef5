"""The waiting queue: priority bands, fair between tenants inside a band, bounded, without starvation between bands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serve_app.core.request import Priority
from serve_app.resilience.fair_band import BandLimits, FairBand, Offered
from serve_app.resilience.waiting import Waiting


class WhenFull(StrEnum):
    """What happens to an offer that finds its band full."""

    REFUSE = "refuse"
    WAIT = "wait"


class Bands(BaseModel):
    """Bounds of each priority band, the most urgent first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interactive: BandLimits = BandLimits()
    default: BandLimits = BandLimits()
    batch: BandLimits = BandLimits()

    def of(self, priority: Priority) -> BandLimits:
        """The bounds of one band."""
        return {
            Priority.INTERACTIVE: self.interactive,
            Priority.DEFAULT: self.default,
            Priority.BATCH: self.batch,
        }[priority]


class AdmissionConfig(BaseModel):
    """`args.router.admission` in the Serve config file. Bounds are per model and router replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bands: Bands = Bands()
    """What may wait, per priority. There is no bound over all bands: one band's load never costs another one its
    places."""
    tenant_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Share of a tenant (the name by which the router knows it) relative to 1, everybody else's. Default: equal
    shares."""
    idle_credit_tokens: float = Field(default=100_000.0, ge=0)
    """Weighted tokens (input + 2 × output, divided by the tenant's weight) that a tenant that comes back may use ahead
    of others, out of what it left unused. More lets small tenants' bursts pass at once and makes service less even by
    as much; 0 is the paper's rule, by which nobody saves up. Default: a few seconds of a few replicas' work, with
    which a tenant within its share hardly notices a noisy one."""
    starvation_promotion_s: float = Field(default=20.0, gt=0)
    """Seconds after which a band whose stream still waits is served as if it were one band more urgent; two bands after
    twice as long. Default: a third of the time after which a queued request is refused, so that both steps are
    taken."""
    starvation_share: float = Field(default=0.1, gt=0, le=1)
    """Largest share of the tokens served that such a band takes from more urgent ones that wait too. Default: the
    urgent ones keep nine tenths. 1 lets whoever waited long enough always go first."""
    when_full: WhenFull = WhenFull.REFUSE
    """`refuse` answers 429 at once; `wait` lets the caller stand in line, up to the two bounds below."""
    in_line_limit: int = Field(default=1024, ge=1)
    """Callers that may stand in the line of each band with `when_full: wait`."""
    in_line_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds after which a caller in line is refused. Default: below the minute that most HTTP clients wait."""
    queue_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds after which a queued request is refused although engines are alive (429)."""


@dataclass(frozen=True, slots=True)
class OfferResult:
    """What became of an offer, and of those that lost their place to it."""

    offered: Offered
    displaced: tuple[int, ...] = ()
    """Streams that were queued and are not any more: to be refused. Empty unless the offer is queued."""


class AdmissionQueue:
    """Waiting streams of one model. Pure and single-threaded; clock readings (`now`, seconds) never run back.

    Service: first what was put back, first in first out; then the most urgent band, inside it `FairBand`'s order.
    Work-conserving: `head` names a stream whenever one is queued.

    No starvation between bands: when the stream that entered a band first has waited `starvation_promotion_s`, the band
    is served as if one band more urgent, and so on; for at most `starvation_share` of the tokens, as long as more
    urgent streams wait. (Ageing, as mq-deadline's `prio_aging_expire` in Linux; the share is a token bucket with debt.)
    The band is promoted, not the stream: inside it the tenants' turns stay, so a tenant gains nothing by a long backlog
    of its own.

    Cost: O(log tenants) an operation; `offer` to a full band, and questions about a tenant's turn and share, look at
    the band's tenants.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        in_line_limit = config.in_line_limit if config.when_full is WhenFull.WAIT else 0
        shares = config.tenant_weights, config.idle_credit_tokens
        self._bands = {p: FairBand(config.bands.of(p), in_line_limit, *shares) for p in Priority}
        self._urgency = {priority: place for place, priority in enumerate(Priority)}
        self._promotion_s = config.starvation_promotion_s
        self._debt_per_token = (1.0 - config.starvation_share) / config.starvation_share
        self._credit = dict.fromkeys(Priority, 0.0)
        self._returned: OrderedDict[int, Waiting] = OrderedDict()
        self._returned_work = 0
        self._priority: dict[int, Priority] = {}
        self._changes = 0
        self._positions: dict[int, int] = {}
        self._positions_at = 0

    # --- questions

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits, in the queue or in line. Asked several times for each request: nearly free."""
        return not self._priority and not self._returned

    def __len__(self) -> int:
        """Queued streams, those in line not counted."""
        if not self._priority:
            return len(self._returned)
        return len(self._returned) + sum(band.queued for band in self._bands.values())

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._returned or stream_id in self._priority

    def __iter__(self) -> Iterator[int]:
        """Ids in order of service, if nothing else came and nobody were promoted; those in line last."""
        yield from self._returned
        for band in self._bands.values():
            yield from band.order()
        for band in self._bands.values():
            yield from band.line()

    @property
    def tokens(self) -> int:
        """Prompt tokens in the queue, those in line not counted."""
        return sum(band.tokens for band in self._bands.values())

    @property
    def in_line(self) -> int:
        """Offers waiting for a place."""
        if not self._priority:
            return 0
        return sum(band.in_line for band in self._bands.values())

    def waits_in_line(self, stream_id: int) -> bool:
        """Whether this offer still stands in line for a place in the queue."""
        priority = self._priority.get(stream_id)
        return priority is not None and self._bands[priority].waits_in_line(stream_id)

    def can_take(self, priority: Priority = Priority.DEFAULT, tokens: int = 1) -> bool:
        """Whether an offer of `tokens` prompt tokens would be queued or put in line now, displacing nobody."""
        return self._bands[priority].can_take(tokens)

    def by_band(self) -> Mapping[Priority, tuple[int, int]]:
        """Streams and prompt tokens that hold places, per band."""
        return {priority: (band.requests, band.tokens) for priority, band in self._bands.items()}

    def places(self, priority: Priority) -> tuple[int, int, int, int]:
        """The band's bound in requests and what is left of it, then the same in prompt tokens."""
        band = self._bands[priority]
        limits = band.limits
        left = max(0, limits.requests - band.requests), max(0, limits.tokens - band.tokens)
        return limits.requests, left[0], limits.tokens, left[1]

    def tokens_ahead(self, priority: Priority, tenant: str | None = None) -> int:
        """Prompt and expected output tokens that would be served before a new offer.

        An estimate from what waits now. With `tenant`, what that tenant's turn comes before is not counted.
        """
        if not self._priority:  # no band has anything
            return self._returned_work
        ahead = float(self._returned_work)
        for other, band in self._bands.items():
            if other is priority:
                return int(ahead + band.work_ahead(tenant))
            ahead += band.work_ahead(None)
        raise AssertionError(priority)

    def is_below_share(self, priority: Priority, tenant: str) -> bool:
        """Whether other tenants wait in the band, and this one has less waiting than its fair share of it, or was
        served so much less than they that all it waits with comes before theirs."""
        return self._bands[priority].is_below_share(tenant)

    def position(self, stream_id: int) -> int | None:
        """Streams ahead of this one; None when it does not wait.

        Exact while fewer than 16 wait; otherwise from a look at the queue that may be one sixteenth of its length in
        changes old, which keeps asking for all of them affordable.
        """
        if stream_id not in self:
            return None
        old = self._changes - self._positions_at
        if stream_id not in self._positions or old > (len(self._priority) + len(self._returned)) // 16:
            self._positions = {waiting: ahead for ahead, waiting in enumerate(self)}
            self._positions_at = self._changes
        return self._positions[stream_id]

    def head(self, now: float) -> int | None:
        """The stream to serve next. The same until something changes or somebody waited long enough for promotion."""
        if self._returned:
            return next(iter(self._returned))
        if not self._priority:
            return None
        priority = self._next_band(now)
        return self._bands[priority].head() if priority is not None else None

    # --- what happens

    def offer(self, waiting: Waiting, now: float) -> OfferResult:
        """Queue the stream, put it in line, or refuse it. Raises ValueError when it waits already."""
        self._is_new(waiting.stream_id)
        offered, displaced = self._bands[waiting.priority].offer(waiting)
        for stream_id in displaced:
            del self._priority[stream_id]
        if offered is not Offered.REFUSED:
            self._priority[waiting.stream_id] = waiting.priority
            self._changes += 1
        return OfferResult(offered, displaced)

    def put_back(self, waiting: Waiting, now: float) -> None:
        """Queue what was dispatched before and has to go again: ahead of all new work, above the bounds if need be.

        `take` does not charge it again. Raises ValueError when it waits already.
        """
        self._is_new(waiting.stream_id)
        self._returned[waiting.stream_id] = waiting
        self._returned_work += waiting.work
        self._bands[waiting.priority].hold(waiting)
        self._changes += 1

    def take(self, stream_id: int, now: float) -> Waiting:
        """The stream is dispatched: it leaves, and its tenant is charged. Raises KeyError when it is not queued."""
        returned = self._leave_returned(stream_id)
        if returned is not None:
            return returned
        priority = self._priority[stream_id]
        waiting = self._bands[priority].take(stream_id)
        del self._priority[stream_id]
        self._settle_promotion(waiting)
        self._changes += 1
        return waiting

    def pass_through(self, waiting: Waiting) -> None:
        """A stream is dispatched at once, since nobody waits: its tenant is charged as if it had been queued and
        taken."""
        self._bands[waiting.priority].pass_through(waiting)
        self._changes += 1

    def remove(self, stream_id: int) -> bool:
        """A stream gave up: it leaves uncharged; whether it was there. Whoever is in line moves up."""
        if self._leave_returned(stream_id) is not None:
            return True
        priority = self._priority.pop(stream_id, None)
        if priority is None:
            return False
        self._bands[priority].remove(stream_id)
        self._changes += 1
        return True

    def correct(self, tenant: str, tokens: float, priority: Priority = Priority.DEFAULT) -> None:
        """What was charged at `take` differs from the real cost by `tokens` weighted tokens (real less expected).

        To be told once for each dispatched stream, when it ended, with the priority under which it was charged.
        """
        self._bands[priority].correct(tenant, tokens)
        self._changes += 1

    # --- promotion

    def _next_band(self, now: float) -> Priority | None:
        urgent: Priority | None = None
        best: Priority | None = None
        longest = now
        for priority, band in self._bands.items():
            since = band.waits_since()
            if since is None:
                continue
            if urgent is None:
                urgent = best = priority
                continue
            steps = self._urgency[priority] - self._urgency[urgent]
            if self._credit[priority] >= 0.0 and now - since >= steps * self._promotion_s and since < longest:
                best, longest = priority, since
        return best

    def _settle_promotion(self, taken: Waiting) -> None:
        """Streams taken ahead of more urgent ones put their band into debt; those pay it off that are taken before
        it."""
        overtook = False
        for priority, band in self._bands.items():
            place = self._urgency[priority] - self._urgency[taken.priority]
            if place < 0:
                overtook = overtook or band.queued > 0
            elif place == 0:
                self._credit[priority] -= taken.cost * self._debt_per_token if overtook else 0.0
            else:
                self._credit[priority] += taken.cost if self._credit[priority] < 0.0 else 0.0

    def _leave_returned(self, stream_id: int) -> Waiting | None:
        waiting = self._returned.pop(stream_id, None)
        if waiting is not None:
            self._returned_work -= waiting.work
            self._bands[waiting.priority].release(waiting)
            self._changes += 1
        return waiting

    def _is_new(self, stream_id: int) -> None:
        if stream_id in self:
            raise ValueError(f"stream {stream_id} waits already")
