"""One priority band of the waiting queue: bounded, fair between tenants, first in first out within a tenant."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from pydantic import BaseModel, ConfigDict, Field

from serve_app.resilience.fairness import VirtualTokenCounter
from serve_app.resilience.waiting import Waiting
from serve_app.resilience.waiting_line import WaitingLine

_ROUNDING = 1e-9


class Offered(StrEnum):
    """What became of an offer."""

    QUEUED = "queued"
    IN_LINE = "in_line"
    """Not in the queue yet: it waits for a place."""
    REFUSED = "refused"


class BandLimits(BaseModel):
    """Bounds of one priority band, per model and router replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = Field(default=256, ge=0)
    """Requests that may wait for an engine. 0 refuses whatever cannot start at once. Default: some seconds of work for
    a few engine replicas; whoever waits longer than that is better told to come back."""
    tokens: int = Field(default=400_000, ge=1)
    """Estimated prompt tokens that may wait. A single prompt above it is let in when nothing else waits. Default: as
    many requests as above with prompts of about 1,500 tokens."""


@dataclass(slots=True)
class _Tenant:
    streams: OrderedDict[int, Waiting] = field(default_factory=OrderedDict)
    tokens: int = 0
    cost: float = 0.0
    work: int = 0


class FairBand:
    """A bounded queue whose places and turns tenants share by weight. Pure and single-threaded.

    Turns: `VirtualTokenCounter`; work-conserving.

    Places: while the band is not full anybody may have any number. When it is full, a tenant within its share of it
    takes the place of the newest stream of the tenant furthest above its own (drop from the longest queue: McKenney,
    "Stochastic Fairness Queueing", INFOCOM 1990; share of requests or of tokens, whichever is larger: "Dominant
    Resource Fairness", Ghodsi et al., NSDI 2011). So one tenant's backlog never costs another one its place. A tenant's
    only stream keeps its place unless it alone holds more than half of the tokens, and has a right to one within that
    size: otherwise long prompts could never wait among many tenants.

    Line: offers beyond the bounds wait for a place where `in_line_limit` allows. A free place goes to the tenant in
    line that holds the least of its share; first in, first out among its own. A tenant within its share that has nobody
    in line passes it, and whoever loses a place this way stands first in line.
    """

    def __init__(
        self, limits: BandLimits, in_line_limit: int, weights: Mapping[str, float], idle_credit: float = 0.0
    ) -> None:
        self._limits = limits
        self._counter = VirtualTokenCounter(weights, idle_credit=idle_credit)
        self._tenants: dict[str, _Tenant] = {}
        self._queued: OrderedDict[int, Waiting] = OrderedDict()
        self._line = WaitingLine(in_line_limit)
        self._held_requests = 0
        self.tokens = 0
        """Prompt tokens that hold places, those in line not counted."""
        self.work = 0
        """Prompt and expected output tokens of queued streams."""

    # --- questions

    @property
    def limits(self) -> BandLimits:
        """The bounds."""
        return self._limits

    @property
    def requests(self) -> int:
        """Streams that hold a place: queued ones, and admitted ones that were put back."""
        return len(self._queued) + self._held_requests

    @property
    def queued(self) -> int:
        """Streams that wait for their turn here."""
        return len(self._queued)

    @property
    def in_line(self) -> int:
        """Offers waiting for a place."""
        return len(self._line)

    def waits_in_line(self, stream_id: int) -> bool:
        """Whether this offer still stands in line for a place."""
        return stream_id in self._line

    def can_take(self, tokens: int) -> bool:
        """Whether an offer of `tokens` prompt tokens would be queued or put in line, displacing nobody."""
        return (not self._line and self._fits(tokens)) or self._line.has_room

    def head(self) -> int | None:
        """The stream whose turn it is."""
        tenant = self._counter.least()
        return next(iter(self._tenants[tenant].streams)) if tenant is not None else None

    def waits_since(self) -> float | None:
        """Clock reading at which the stream was offered that entered the queue first."""
        for waiting in self._queued.values():
            return waiting.offered_at
        return None

    def work_ahead(self, tenant: str | None) -> float:
        """Prompt and expected output tokens served before a new offer; all of them without a tenant. Fluid estimate,
        O(tenants)."""
        if tenant is None or (self._line and not self._within_share(tenant, 1)):
            return self.work + self._line.work
        mine = self._tenants.get(tenant)
        return (mine.work if mine is not None else 0) + self._others_ahead(tenant)

    def is_below_share(self, tenant: str) -> bool:
        """Whether others wait here, and the tenant has less waiting than its fair share of all that waits, or was
        served so much less than they that all it waits with comes before theirs."""
        mine = self._tenants.get(tenant)
        work = mine.work if mine is not None else 0
        if work >= self.work:
            return False
        less_waits = work < self.work * self._counter.weight(tenant) / self._weight_with(tenant)
        return less_waits or not self._others_ahead(tenant)

    def order(self) -> Iterator[int]:
        """Ids in the order in which they would be served if nothing else came; without those in line."""
        turns = self._counter.turns()
        later = count(1 + max((turn[1] for turn in turns), default=0))
        streams = {turn[2]: iter(self._tenants[turn[2]].streams.values()) for turn in turns}
        while turns:
            counter, _, tenant = turns[0]
            waiting = next(streams[tenant], None)
            if waiting is None:
                heapq.heappop(turns)
                continue
            yield waiting.stream_id
            heapq.heapreplace(turns, (counter + waiting.cost / self._counter.weight(tenant), next(later), tenant))

    def line(self) -> Iterator[int]:
        """Ids of those in line, the first first."""
        return iter(self._line)

    # --- what happens

    def offer(self, waiting: Waiting) -> tuple[Offered, tuple[int, ...]]:
        """Queue it, put it in line, or refuse it; and the ids that lost their place to it and left."""
        if not self._line and self._fits(waiting.prompt_tokens):
            self._enqueue(waiting)
            return Offered.QUEUED, ()
        if self._within_share(waiting.tenant, waiting.prompt_tokens):
            displaced = self._to_displace(waiting)
            if displaced is not None:
                for other in displaced:
                    self._dequeue(other)
                self._enqueue(waiting)
                refused = [self._line.join_first(other) for other in displaced]
                self._move_up()
                return Offered.QUEUED, tuple(other for other in refused if other is not None)
        if self._line.join(waiting):
            return Offered.IN_LINE, ()
        return Offered.REFUSED, ()

    def take(self, stream_id: int) -> Waiting:
        """It is dispatched: it leaves and its tenant is charged. Raises KeyError when it is not queued."""
        waiting = self._queued[stream_id]
        self._counter.charge(waiting.tenant, waiting.cost)
        self._dequeue(waiting)
        self._move_up()
        return waiting

    def remove(self, stream_id: int) -> None:
        """It gave up: it leaves uncharged. Raises KeyError when it neither is queued nor stands in line."""
        if stream_id in self._line:
            self._line.leave(stream_id)
        else:
            self._dequeue(self._queued[stream_id])
        self._move_up()

    def pass_through(self, waiting: Waiting) -> None:
        """It is dispatched without having waited: its tenant is charged as if it had been queued and taken."""
        self._counter.join(waiting.tenant)
        self._counter.charge(waiting.tenant, waiting.cost)
        if waiting.tenant not in self._tenants:
            self._counter.leave(waiting.tenant)

    def correct(self, tenant: str, cost: float) -> None:
        """Charge the tenant `cost` weighted tokens more, or less when negative."""
        self._counter.correct(tenant, cost)

    def hold(self, waiting: Waiting) -> None:
        """A stream of this band that is queued elsewhere holds a place, beyond the bounds if need be."""
        self._held_requests += 1
        self.tokens += waiting.prompt_tokens

    def release(self, waiting: Waiting) -> None:
        """Undo `hold`."""
        self._held_requests -= 1
        self.tokens -= waiting.prompt_tokens
        self._move_up()

    # --- turns

    def _others_ahead(self, tenant: str) -> float:
        """Work of the other tenants whose turn comes before that of a new offer."""
        mine = self._tenants.get(tenant)
        waiting = mine.cost / self._counter.weight(tenant) if mine is not None else 0.0
        its_turn = self._counter.counter(tenant) + waiting
        ahead = 0.0
        for counter, _, name in self._counter.active():
            if counter < its_turn and name != tenant:
                other = self._tenants[name]
                until = (its_turn - counter) * self._counter.weight(name)
                ahead += other.work * until / other.cost if until < other.cost else other.work
        return ahead

    # --- places

    def _fits(self, tokens: int) -> bool:
        if self.requests == 0:
            return self._limits.requests > 0
        return self.requests < self._limits.requests and self.tokens + tokens <= self._limits.tokens

    def _shares(self, requests: int, tokens: int) -> float:
        return max(requests / max(1, self._limits.requests), tokens / self._limits.tokens)

    def _held_share(self, tenant: str) -> float:
        mine = self._tenants.get(tenant)
        return self._shares(len(mine.streams), mine.tokens) / self._counter.weight(tenant) if mine is not None else 0.0

    def _weight_with(self, tenant: str) -> float:
        joins = 0.0 if tenant in self._tenants else self._counter.weight(tenant)
        return self._counter.active_weight + joins

    def _within_share(self, tenant: str, tokens: int) -> bool:
        if self._line.has(tenant):
            return False  # first in, first out
        mine = self._tenants.get(tenant)
        if mine is None:
            return 2 * tokens <= self._limits.tokens
        share = self._counter.weight(tenant) / self._weight_with(tenant)
        return self._shares(len(mine.streams) + 1, mine.tokens + tokens) <= share + _ROUNDING

    def _to_displace(self, offer: Waiting) -> list[Waiting] | None:
        """The streams whose leaving makes room for the offer; None when those above their share do not suffice."""
        if self._limits.requests == 0:
            return None
        all_weight = self._weight_with(offer.tenant)
        excess: list[tuple[float, str]] = []
        for name, tenant in self._tenants.items():
            above = self._excess(name, len(tenant.streams), tenant.tokens, all_weight)
            if above is not None:
                excess.append((-above, name))
        heapq.heapify(excess)
        newest = {name: reversed(self._tenants[name].streams.values()) for _, name in excess}
        left = {name: (len(self._tenants[name].streams), self._tenants[name].tokens) for _, name in excess}
        requests, tokens = self.requests + 1, self.tokens + offer.prompt_tokens
        displaced: list[Waiting] = []
        while requests > self._limits.requests or tokens > self._limits.tokens:
            if not excess:
                return None
            name = heapq.heappop(excess)[1]
            leaves = next(newest[name])
            displaced.append(leaves)
            requests, tokens = requests - 1, tokens - leaves.prompt_tokens
            left[name] = left[name][0] - 1, left[name][1] - leaves.prompt_tokens
            above = self._excess(name, *left[name], all_weight)
            if above is not None:
                heapq.heappush(excess, (-above, name))
        return displaced

    def _excess(self, tenant: str, requests: int, tokens: int, all_weight: float) -> float | None:
        """How many times its share a tenant holds, when it may lose a stream."""
        if requests == 0 or (requests == 1 and 2 * tokens <= self._limits.tokens):
            return None
        times = self._shares(requests, tokens) * all_weight / self._counter.weight(tenant)
        return times if times > 1.0 + _ROUNDING else None

    # --- moves

    def _enqueue(self, waiting: Waiting) -> None:
        self._queued[waiting.stream_id] = waiting
        tenant = self._tenants.get(waiting.tenant)
        if tenant is None:
            tenant = self._tenants[waiting.tenant] = _Tenant()
            self._counter.join(waiting.tenant)
        tenant.streams[waiting.stream_id] = waiting
        self._count(tenant, waiting, 1)

    def _dequeue(self, waiting: Waiting) -> None:
        del self._queued[waiting.stream_id]
        tenant = self._tenants[waiting.tenant]
        del tenant.streams[waiting.stream_id]
        self._count(tenant, waiting, -1)
        if not tenant.streams:
            del self._tenants[waiting.tenant]
            self._counter.leave(waiting.tenant)

    def _count(self, tenant: _Tenant, waiting: Waiting, sign: int) -> None:
        tokens, cost, work = sign * waiting.prompt_tokens, sign * waiting.cost, sign * waiting.work
        tenant.tokens += tokens
        tenant.cost += cost
        tenant.work += work
        self.tokens += tokens
        self.work += work

    def _move_up(self) -> None:
        while self._line:
            waiting = self._line.next(self._held_share)
            if not self._fits(waiting.prompt_tokens):
                return
            self._line.leave(waiting.stream_id)
            self._enqueue(waiting)
