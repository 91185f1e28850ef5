"""The router's judgement as a pure state machine: no I/O, time or threads.

`handle(happened, now)` returns the commands that the async shell carries out. The same code runs in virtual time
(`benchmarks/overload`). Each model is judged for itself, by `serve_app.router.decisions.model_core`.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.core.errors import ChannelLost, EngineLost
from serve_app.core.interfaces import RateLimitState, Rng
from serve_app.core.request import Priority
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EnginePool
from serve_app.router.decisions.messages import (
    AttemptFailed,
    Command,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    EngineReported,
    Happened,
    HedgeWon,
    Offer,
    ReplicasListed,
    RoomMade,
    Tick,
)
from serve_app.router.decisions.model_core import ModelCore
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.replica_policies import AttemptResult
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.telemetry.reasons import RequeueReason


class RouterCore:
    """Decides for one router replica. Single-threaded; every request gets exactly one end."""

    def __init__(self, models: Iterable[str], config: DecisionsConfig, rng: Rng) -> None:
        self._outbox = Outbox()
        self._models = {model: ModelCore(model, config, rng, self._outbox) for model in models}
        self._model_of: dict[int, ModelCore] = {}
        self._outran: list[StreamLedger] = []
        """Streams whose first attempt gave a token while the second one ran."""
        self._handlers = {
            Offer: self._on_offer,
            EngineReported: self._on_report,
            ReplicasListed: self._on_listed,
            EngineGone: self._on_gone,
            EngineAccepted: self._on_accepted,
            DispatchRefused: self._on_refused,
            AttemptFailed: self._on_attempt_failed,
            HedgeWon: self._on_hedge_won,
            Ended: self._on_ended,
            RoomMade: self._on_room,
            Tick: self._on_tick,
        }

    def handle(self, happened: Happened, now: float) -> list[Command]:
        """Take what happened at clock reading `now` (seconds, never running back); the commands, in order."""
        if self._outran:
            self._drop_outrun(now)
        self._handlers[type(happened)](happened, now)  # type: ignore[operator]  # one handler per type
        return self._outbox.drain()

    def tokens_received(self, stream_id: int, count: int, now: float) -> bool:
        """`count` output tokens of the stream's present attempt came; the first ones are its first token.

        No message, since it happens for every token. Returns whether that made room for something that waits, or
        outran a second attempt: then `RoomMade` is to be handled, once for all tokens that came together.
        """
        core = self._model_of.get(stream_id)
        if core is None or not core.attempts.received(stream := core.streams[stream_id], count, now):
            return False
        if stream.hedge is None:
            return core.waiting > 0
        self._outran.append(stream)
        return True

    # --- questions

    def model(self, model: str) -> ModelCore:
        """What is decided for one model."""
        return self._models[model]

    def pool(self, model: str) -> EnginePool:
        """The engine replicas of `model`."""
        return self._models[model].pool

    def can_admit(self, now: float) -> bool:
        """Whether any model would take a small request now, into its queue or at once."""
        return any(core.can_admit(now) for core in self._models.values())

    def rate_limits(self, model: str, priority: Priority, now: float) -> RateLimitState:
        """The places of one band of the model's queue."""
        return self._models[model].rate_limits(priority, now)

    def queue_position(self, stream_id: int) -> int | None:
        """Requests ahead of this one; None when it does not wait."""
        core = self._model_of.get(stream_id)
        return None if core is None else core.queue.position(stream_id)

    # --- what happened

    def _on_offer(self, offer: Offer, now: float) -> None:
        core = self._models[offer.model]
        core.offered(offer, now)
        if offer.stream_id in core.streams:
            self._model_of[offer.stream_id] = core

    def _on_report(self, report: EngineReported, now: float) -> None:
        core = self._models.get(report.status.model)
        if core is not None:
            core.pool.report(report.status, now)
            core.policies.reported(report.status, now)
            core.replicas_changed(now)

    def _on_listed(self, listed: ReplicasListed, now: float) -> None:
        core = self._models[listed.model]
        core.pool.list_replicas(listed.engine_ids, now)
        core.replicas_changed(now)

    def _on_gone(self, gone: EngineGone, now: float) -> None:
        for core in self._models.values():
            core.engine_gone(gone.engine_id, gone.error, now)
            core.replicas_changed(now)

    def _on_accepted(self, accepted: EngineAccepted, now: float) -> None:
        found = self._current(accepted.stream_id, accepted.attempt)
        if found is not None:
            core, _, attempt = found
            core.attempts.accepted(attempt, accepted.prompt_tokens)

    def _on_refused(self, refused: DispatchRefused, now: float) -> None:
        found = self._current(refused.stream_id, refused.attempt)
        if found is not None:
            core, stream, attempt = found
            if attempt is stream:
                core.refused(stream, refused.reason, now)
            else:
                core.hedge_failed(stream, refused.reason, now)
            core.dispatch_waiting(now)

    def _on_attempt_failed(self, failed: AttemptFailed, now: float) -> None:
        found = self._current(failed.stream_id, failed.attempt)
        if found is not None:
            core, stream, attempt = found
            lost = isinstance(failed.error, EngineLost | ChannelLost)
            reason = RequeueReason.ENGINE_LOST if lost else RequeueReason.ENGINE_FAILED
            if attempt is stream:
                core.attempt_failed(stream, reason, failed.error, now)
            else:
                core.hedge_failed(stream, reason, now)
            core.dispatch_waiting(now)

    def _on_hedge_won(self, won: HedgeWon, now: float) -> None:
        found = self._current(won.stream_id, won.attempt)
        if found is not None:
            core, stream, attempt = found
            if attempt is not stream and not stream.failed:
                core.hedges.take_over(stream, RequeueReason.OUTRUN, AttemptResult.CANCELLED, now)

    def _drop_outrun(self, now: float) -> None:
        for stream in self._outran:
            core = self._model_of.get(stream.stream_id)
            if core is not None and stream.hedge is not None:
                core.hedges.drop(stream, RequeueReason.OUTRUN, AttemptResult.CANCELLED, now)
        self._outran.clear()

    def _on_ended(self, ended: Ended, now: float) -> None:
        core = self._model_of.pop(ended.stream_id, None)
        if core is not None:
            core.ended(core.streams[ended.stream_id], ended.output_tokens, ended.completed, now)
            core.dispatch_waiting(now)

    def _on_room(self, room: RoomMade, now: float) -> None:
        for core in self._models.values():
            if core.waiting:
                core.dispatch_waiting(now)

    def _on_tick(self, tick: Tick, now: float) -> None:
        for core in self._models.values():
            core.ticked(now)

    def _current(self, stream_id: int, attempt: int) -> tuple[ModelCore, StreamLedger, StreamLedger] | None:
        """The stream, and what holds this attempt: the stream itself, or its second attempt. What older attempts tell
        is void."""
        core = self._model_of.get(stream_id)
        if core is None:
            return None
        stream = core.streams[stream_id]
        if stream.attempt == attempt:
            return core, stream, stream
        hedge = stream.hedge
        return (core, stream, hedge) if hedge is not None and hedge.attempt == attempt else None
