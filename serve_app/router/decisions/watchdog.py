"""Notices, while it happens, that an engine replica leaves a stream without its answer, first token or next token."""

from __future__ import annotations

import enum

from serve_app.resilience.stream_timeouts import StreamTimeouts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EngineView
from serve_app.router.decisions.stream_ledger import StreamLedger


class Finding(enum.Enum):
    """What is wrong with an attempt."""

    NOT_ACCEPTED = enum.auto()
    """The replica has not answered in the time that its prompt may take to render."""
    NOT_DISPATCHED = enum.auto()
    """No replica has answered for `dispatch_timeout_s`."""
    NO_FIRST_TOKEN = enum.auto()
    """The first token is overdue."""
    STALLED = enum.auto()
    """Its tokens have stopped coming."""
    STUCK = enum.auto()
    """So long that the stream ends if nobody can take it over now."""
    DRAINING = enum.auto()
    """Its replica has been leaving for `drain_handover_s`."""


class Watchdog:
    """Looks at attempts. Pure; one for all streams of a model."""

    def __init__(self, config: DecisionsConfig, timeouts: StreamTimeouts) -> None:
        self._config = config
        self._timeouts = timeouts

    def look(self, stream: StreamLedger, view: EngineView, now: float) -> tuple[Finding | None, float]:
        """What is wrong, and the clock reading before which nothing else can be."""
        if not stream.accepted:
            return self._unaccepted(stream, now)
        if stream.first_token_at is None:
            finding, next_at = self._first_token(stream, view, now)
        else:
            finding, next_at = self._stall(stream, view, now)
        if view.leaving_since is None:
            # Serve may take it off its list at any time.
            return finding, min(next_at, now + max(0.1, self._config.failover.drain_handover_s / 10))
        handover_at = view.leaving_since + self._config.failover.drain_handover_s
        if finding is None and now >= handover_at:
            return Finding.DRAINING, now
        return finding, min(next_at, handover_at)

    def _unaccepted(self, stream: StreamLedger, now: float) -> tuple[Finding | None, float]:
        config = self._config
        first = stream.first_dispatched_at
        if first is not None and now - first >= config.dispatch_timeout_s:
            return Finding.NOT_DISPATCHED, now
        timeout_s = config.accept_timeout_s + config.accept_timeout_per_ktoken_s * (stream.prompt_tokens // 1000)
        if now - stream.dispatched_at >= timeout_s:
            return Finding.NOT_ACCEPTED, now
        return None, now

    def _first_token(self, stream: StreamLedger, view: EngineView, now: float) -> tuple[Finding | None, float]:
        waited_s = now - stream.dispatched_at
        ceiling_s = self._config.timeouts.first_token_ceiling_s
        if waited_s >= ceiling_s and now - view.stepped_at >= ceiling_s:
            return Finding.STUCK, now
        timeout_s = self._timeouts.first_token_s(stream.prompt_tokens + stream.output_tokens, not view.warm, now)
        if waited_s >= timeout_s:
            return Finding.NO_FIRST_TOKEN, now
        return None, stream.dispatched_at + min(timeout_s, waited_s + 1.0)

    def _stall(self, stream: StreamLedger, view: EngineView, now: float) -> tuple[Finding | None, float]:
        """A request that is preempted for lack of KV cache is silent in an engine that steps on: it is left alone, up
        to the longest silence allowed. (Recomputing it elsewhere would cost what it waits for.)"""
        silent_s = now - stream.last_token_at
        stall_s = self._timeouts.stall_s(now)
        if silent_s < stall_s:
            return None, stream.last_token_at + stall_s
        engine_silent_s = now - view.stepped_at
        ceiling_s = self._config.timeouts.stall_ceiling_s
        if silent_s >= ceiling_s:
            return (Finding.STUCK if engine_silent_s >= ceiling_s else Finding.STALLED), now
        # Heartbeats come about once a second: an engine that steps shows it within two.
        steps_on = engine_silent_s < max(2.0, stall_s / 2) and view.status.load.running > 0
        return (None if steps_on else Finding.STALLED), now
