"""Whose turn it is among tenants: virtual token counters.

Source: Sheng et al., "Fairness in Serving Large Language Models" (VTC), OSDI 2024, Algorithm 2 with weights (4.3) and
predicted output lengths (4.4): a request's expected cost is charged when it starts, the difference at its end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from itertools import count

_Turn = tuple[float, int, str]
"""Counter, since when the tenant waits for its turn (a running number), tenant."""


class VirtualTokenCounter:
    """Service received by each tenant, divided by its weight; whoever waits with the least is next.

    *Active* is a tenant with work in the queue; running work alone does not make it so. A tenant that becomes active is
    lifted to the least counter of the active ones, or to the counter of the tenant that left last when there is none:
    idle time earns no credit, and use of an idle system is not held against anyone. Equal counters go to whoever waits
    longer for its turn. Promise (the paper's Lemma 4.3): counters of active tenants differ by at most the largest
    charge divided by weight, plus what `correct` changed and the idle credit.

    Not promised: a tenant above the least counter waits as long as tenants that were never seen before fill the whole
    capacity; whoever owns the queue bounds that by time.

    Pure and single-threaded. Operations are O(log tenants), amortised. Idle tenants are remembered while their counter
    is above the one that they would be lifted to: forgetting the others changes nothing. Only beyond `keep_idle` of
    those is one forgotten whose memory matters, the least first.
    """

    def __init__(self, weights: Mapping[str, float], keep_idle: int = 1024, idle_credit: float = 0.0) -> None:
        """`weights`: share of each tenant relative to 1.0, which is everybody else's. `idle_credit`: weighted tokens
        below the lift that a returning tenant keeps of what it left unused; 0 is the paper's rule."""
        self._weights = weights
        self._idle_credit = idle_credit
        self._keep_idle = keep_idle
        self._active: dict[str, _Turn] = {}
        self._idle: dict[str, float] = {}
        self._heap: list[_Turn] = []
        self._turns = count()
        self._active_weight = 0.0
        self._last_left: str | None = None
        self._highest_floor = 0.0

    @property
    def active_weight(self) -> float:
        """Sum of the active tenants' weights."""
        return self._active_weight

    def weight(self, tenant: str) -> float:
        """The tenant's weight; 1.0 unless configured."""
        return self._weights.get(tenant, 1.0)

    def counter(self, tenant: str) -> float:
        """Weighted tokens of service; what a lift would give now for a tenant that is not active."""
        turn = self._active.get(tenant)
        if turn is not None:
            return turn[0]
        floor = self.floor()
        if self._idle_credit == 0.0:
            return max(self._idle.get(tenant, floor), floor)
        # One tenant's credit must not lower the lift for the next; and who is not remembered gets none, since names are
        # easily made up.
        floor = max(floor, self._highest_floor)
        return max(self._idle.get(tenant, floor), floor - self._idle_credit)

    def floor(self) -> float:
        """The counter to which a tenant is lifted that becomes active now."""
        least = self._least()
        if least is not None:
            return least[0]
        return self._idle.get(self._last_left, 0.0) if self._last_left is not None else 0.0

    def least(self) -> str | None:
        """The active tenant whose turn it is."""
        turn = self._least()
        return turn[2] if turn is not None else None

    def active(self) -> Iterable[_Turn]:
        """The active tenants' counters, in no order."""
        return self._active.values()

    def turns(self) -> list[_Turn]:
        """The active tenants' counters, as a heap of (counter, order among equals, tenant)."""
        turns = list(self._active.values())
        heapq.heapify(turns)
        return turns

    def join(self, tenant: str) -> None:
        """The tenant has work in the queue from now on. Nothing happens when it had before."""
        if tenant in self._active:
            return
        counter = self.counter(tenant)
        self._highest_floor = max(self._highest_floor, self.floor())
        self._idle.pop(tenant, None)
        self._active_weight += self.weight(tenant)
        self._set((counter, next(self._turns), tenant))

    def leave(self, tenant: str) -> None:
        """The tenant has no work in the queue any more. Raises KeyError when it had none."""
        counter, _, _ = self._active.pop(tenant)
        self._idle[tenant] = counter
        self._last_left = tenant
        self._active_weight = self._active_weight - self.weight(tenant) if self._active else 0.0
        self._forget()

    def charge(self, tenant: str, cost: float) -> None:
        """An active tenant's work of `cost` weighted tokens starts. Raises KeyError when it is not active."""
        old = self._active[tenant]
        turn = (old[0] + cost / self.weight(tenant), next(self._turns), tenant)
        if self._heap[0] is old:
            self._active[tenant] = turn
            heapq.heapreplace(self._heap, turn)
        else:
            self._set(turn)

    def correct(self, tenant: str, cost: float) -> None:
        """Work charged before cost `cost` more than expected (less when negative). Any tenant, active or not."""
        change = cost / self.weight(tenant)
        turn = self._active.get(tenant)
        if turn is not None:
            self._set((turn[0] + change, turn[1], tenant))
        elif tenant in self._idle:
            self._idle[tenant] += change
        elif change > 0.0:
            # Forgotten, since it stood at most at the floor.
            self._idle[tenant] = self.floor() + change
            self._forget()

    def _least(self) -> _Turn | None:
        heap = self._heap
        while heap:
            turn = heap[0]
            if self._active.get(turn[2]) is turn:
                return turn
            heapq.heappop(heap)
        return None

    def _set(self, turn: _Turn) -> None:
        self._active[turn[2]] = turn
        heapq.heappush(self._heap, turn)
        if len(self._heap) > 64 + 2 * len(self._active):
            self._heap = self.turns()

    def _forget(self) -> None:
        if len(self._idle) <= 2 * self._keep_idle:
            return
        floor = self.floor()
        matters = [(counter, tenant) for tenant, counter in self._idle.items() if counter > floor]
        kept = {tenant: counter for counter, tenant in heapq.nlargest(self._keep_idle, matters)}
        if self._last_left is not None and self._last_left in self._idle:
            kept[self._last_left] = self._idle[self._last_left]
        self._idle = kept
