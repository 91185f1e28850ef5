"""Decides which peers have gone silent."""

from __future__ import annotations


class SilenceDetector:
    """Remembers when each peer was heard last, and reports each silence once.

    Time during which the caller itself did not look (a stalled event loop, a suspended machine) does not count as
    silence of the peers. Not safe for concurrent use.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._heard_at: dict[str, float] = {}
        self._swept_at: float | None = None

    def heard(self, peer: str, now: float) -> None:
        """Note a message of `peer`; the first one starts watching it."""
        self._heard_at[peer] = now

    def forget(self, peer: str) -> None:
        """Stop watching `peer`, if it is watched."""
        self._heard_at.pop(peer, None)

    def watches(self, peer: str) -> bool:
        """Whether `peer` was heard and has not been reported as silent since."""
        return peer in self._heard_at

    def sweep(self, now: float) -> list[str]:
        """Return the peers newly silent for `timeout_s`, which are then no longer watched until heard again.

        Call it several times per timeout, each time after taking in all messages that have arrived.
        """
        since_sweep = 0.0 if self._swept_at is None else now - self._swept_at
        self._swept_at = now
        if since_sweep > self._timeout_s / 2:
            for peer in self._heard_at:
                self._heard_at[peer] += since_sweep
        silent = [peer for peer, heard_at in self._heard_at.items() if now - heard_at >= self._timeout_s]
        for peer in silent:
            del self._heard_at[peer]
        return silent
