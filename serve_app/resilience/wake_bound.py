"""How long requests may wait for a model without a ready engine: as long as it needs to load, and somewhat more."""

from __future__ import annotations

from collections import deque

MARGIN = 3.0
"""A load may take this many times the longest of the last ones: another node's disk, an image to pull."""
_REMEMBERED_LOADS = 5


class WakeBound:
    """The bound of one model, from the waits that ended with an engine. Pure and single-threaded."""

    def __init__(self, least_s: float, most_s: float) -> None:
        """`least_s` seconds hold from the start, and as a floor: above the first load's time. `most_s` is the ceiling,
        for loads that waited until machines were found."""
        self._least_s = least_s
        self._most_s = max(least_s, most_s)
        self._missed_since: float | None = None
        self._ready_since: float | None = None
        self._loads_s: deque[float] = deque(maxlen=_REMEMBERED_LOADS)

    def looked(self, ready: bool, wanted: bool, now: float) -> None:
        """At clock reading `now` (seconds) an engine is `ready` or none is, and requests wait (`wanted`) or none do.

        Call it at every look, several times a second. A model that nobody waits for tells nothing about its loading.
        """
        if ready:
            if self._missed_since is not None:
                self._loads_s.append(now - self._missed_since)
                self._missed_since = None
            if self._ready_since is None:
                self._ready_since = now
            return
        self._ready_since = None
        if not wanted:
            self._missed_since = None
        elif self._missed_since is None:
            self._missed_since = now

    @property
    def hold_s(self) -> float:
        """Seconds that requests may wait while no engine is ready."""
        return min(max(self._least_s, MARGIN * max(self._loads_s, default=0.0)), self._most_s)

    def held_too_long(self, offered_at: float, now: float) -> bool:
        """Whether a request that was offered at `offered_at` has waited for an engine long enough. It is given the
        whole bound from when an engine was first missed: the last one may go while it waits."""
        if self._missed_since is None:
            return False
        return now - max(offered_at, self._missed_since) >= self.hold_s

    def queued_since(self, offered_at: float) -> float:
        """Since when a request waits for a place at a ready engine: waiting for the model is not counted, or most of
        those who waited for it would be refused when it is there."""
        return offered_at if self._ready_since is None else max(offered_at, self._ready_since)
