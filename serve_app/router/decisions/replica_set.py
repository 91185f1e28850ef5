"""Which replicas of one model are in service: enough of them, whatever is held against each."""

from __future__ import annotations

from serve_app.router.decisions.replica import Replica


class ReplicaSet:
    """Pure and single-threaded; clock readings (`now`) are in seconds.

    Promises: at most half of the ready replicas are out of service (Envoy's `max_ejection_percent`), and never all that
    report.
    """

    def __init__(self, stale_after_s: float) -> None:
        """A replica that has not reported for `stale_after_s` seconds does not count as serving."""
        self.replicas: dict[str, Replica] = {}
        self._stale_after_s = stale_after_s

    def serving(self, now: float) -> list[Replica]:
        """Those that are in service and live."""
        stale_after_s = self._stale_after_s
        return [r for r in self.replicas.values() if r.excluded_since is None and r.is_live(now, stale_after_s)]

    def may_exclude(self, replica: Replica, now: float) -> bool:
        """Whether the pool can do without `replica`."""
        if replica.excluded_since is not None:
            return True
        ready = [r for r in self.replicas.values() if r.status.ready]
        out = sum(r.excluded_since is not None for r in ready)
        return out + 1 <= len(ready) // 2 and any(r is not replica for r in self.serving(now))

    def start_over(self, replica: Replica, now: float) -> None:
        """Back in service, through slow start, with nothing held against the replica."""
        replica.include(now, self.founders_with(replica, now))

    def founders_with(self, newcomer: Replica, now: float) -> int:
        """How many new replicas there are, `newcomer` included, with nobody established beside; 0: somebody is."""
        others = [r for r in self.serving(now) if r is not newcomer]
        return 1 + len(others) if all(r.slow_start.ramping for r in others) else 0

    def take_back_a_slow_one(self, now: float) -> None:
        """Put the slow replica that has been out for longest back in service, if there is one."""
        slow = [r for r in self.replicas.values() if r.ejection.active and r.status.ready]
        if slow:
            self.start_over(min(slow, key=_excluded_since), now)

    def keep_half_in_service(self, now: float) -> None:
        """Take replicas back when others have left: those first that have been out for longest."""
        ready = [r for r in self.replicas.values() if r.status.ready]
        out = sorted((r for r in ready if r.excluded_since is not None), key=_excluded_since)
        while len(out) > len(ready) // 2:
            self.start_over(out.pop(0), now)
        if out and not self.serving(now):
            live = [r for r in out if r.is_live(now, self._stale_after_s)]
            if live:
                self.start_over(live[0], now)


def _excluded_since(replica: Replica) -> float:
    return replica.excluded_since or 0.0
