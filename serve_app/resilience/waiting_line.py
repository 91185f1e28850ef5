"""The bounded line of those who wait for a place in a full queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from serve_app.resilience.waiting import Waiting


class WaitingLine:
    """First in, first out within a tenant; who of the tenants is next is for the queue to say. Pure,
    single-threaded."""

    def __init__(self, limit: int) -> None:
        """`limit`: streams that may stand in line."""
        self._limit = limit
        self._line: OrderedDict[int, Waiting] = OrderedDict()
        self._tenants: dict[str, OrderedDict[int, Waiting]] = {}
        self.work = 0
        """Prompt and expected output tokens of all in line."""

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._line

    def __iter__(self) -> Iterator[int]:
        """Ids, the longest in line first."""
        return iter(self._line)

    @property
    def has_room(self) -> bool:
        """Whether one more may join."""
        return len(self._line) < self._limit

    def has(self, tenant: str) -> bool:
        """Whether a stream of this tenant stands in line."""
        return tenant in self._tenants

    def next(self, held: Callable[[str], float]) -> Waiting:
        """The first of the tenant for which `held` is least. Raises ValueError when nobody stands in line."""
        if len(self._tenants) == 1:
            return next(iter(self._line.values()))
        firsts = (next(iter(mine.values())) for mine in self._tenants.values())
        return min(firsts, key=lambda waiting: (held(waiting.tenant), waiting.offered_at))

    def join(self, waiting: Waiting) -> bool:
        """Stand in line as the last; False when it is full."""
        if not self.has_room:
            return False
        self._line[waiting.stream_id] = waiting
        self._tenants.setdefault(waiting.tenant, OrderedDict())[waiting.stream_id] = waiting
        self.work += waiting.work
        return True

    def join_first(self, waiting: Waiting) -> int | None:
        """Stand in line before all others. The id that leaves for it when the line is full: its own tenant's newest."""
        leaves: int | None = None
        if not self.has_room:
            mine = self._tenants.get(waiting.tenant)
            if mine is None:
                return waiting.stream_id
            leaves = next(reversed(mine))
            self.leave(leaves)
        self.join(waiting)
        self._line.move_to_end(waiting.stream_id, last=False)
        self._tenants[waiting.tenant].move_to_end(waiting.stream_id, last=False)
        return leaves

    def leave(self, stream_id: int) -> None:
        """Not in line any more. Raises KeyError when it was not."""
        waiting = self._line.pop(stream_id)
        self.work -= waiting.work
        mine = self._tenants[waiting.tenant]
        del mine[stream_id]
        if not mine:
            del self._tenants[waiting.tenant]
