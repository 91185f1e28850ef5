"""The router's judgement as a pure state machine: admission, replica choice, waiting bounds. No I/O, time or threads.

`handle(happened, now)` returns the commands that the async shell carries out. The same code runs in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_app.core.errors import DeadlineExceeded, NoEngineAvailable, QueueFull, ServeAppError
from serve_app.resilience.admission_queue import AdmissionQueue, Offered, QueueLimits
from serve_app.resilience.drain_rate import DrainRate
from serve_app.router.config import RouterConfig
from serve_app.router.engine_pool import EnginePool
from serve_app.router.messages import (
    Command,
    Dispatch,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    EngineReported,
    Fail,
    Happened,
    Offer,
    ReplicasListed,
    Tick,
    Wake,
    Withdraw,
)
from serve_app.router.picker import pick
from serve_app.telemetry.stream_metrics import RequeueReason


@dataclass(slots=True)
class _Request:
    """One stream, from its offer until it ended. Waiting while `engine_id` is None."""

    model: str
    prompt_tokens: int
    max_tokens: int | None
    deadline: float | None
    offered_at: float
    in_line: bool = False
    attempt: int = 0
    engine_id: str | None = None
    leased_tokens: int = 0
    first_dispatched_at: float = 0.0
    dispatched_at: float = 0.0
    accepted: bool = False
    failed: bool = False
    avoid: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Model:
    """The state of one served model."""

    queue: AdmissionQueue
    expected_output: float
    pool: EnginePool = field(default_factory=EnginePool)
    drain: DrainRate = field(default_factory=DrainRate)
    no_engine_since: float | None = None


class RouterCore:
    """Decides for one router replica. Single-threaded; every request gets exactly one end."""

    def __init__(self, models: Iterable[str], config: RouterConfig, rng: random.Random) -> None:
        limits = QueueLimits(
            config.queue_limit_requests, config.queue_limit_tokens, config.in_line_limit, config.when_full
        )
        self._models = {m: _Model(AdmissionQueue(limits), float(config.expected_output_tokens)) for m in models}
        self._config = config
        self._rng = rng
        self._requests: dict[int, _Request] = {}
        self._unaccepted: set[int] = set()
        self._with_deadline: set[int] = set()
        self._handlers = {
            Offer: self._on_offer,
            EngineReported: self._on_report,
            ReplicasListed: self._on_listed,
            EngineGone: self._on_gone,
            EngineAccepted: self._on_accepted,
            DispatchRefused: self._on_refused,
            Ended: self._on_ended,
            Tick: self._on_tick,
        }

    def handle(self, happened: Happened, now: float) -> list[Command]:
        """Take what happened at clock reading `now` (seconds, never running back); the commands, in order."""
        commands: list[Command] = []
        self._handlers[type(happened)](happened, now, commands)  # type: ignore[operator]  # one handler per type
        return commands

    # --- questions

    def pool(self, model: str) -> EnginePool:
        """The engine replicas of `model`."""
        return self._models[model].pool

    def queue(self, model: str) -> AdmissionQueue:
        """The waiting queue of `model`."""
        return self._models[model].queue

    def can_admit(self) -> bool:
        """Whether any model would take a small request now, into its queue or at once."""
        return any(state.queue.can_take() or state.pool.candidates() for state in self._models.values())

    def queue_position(self, stream_id: int) -> int | None:
        """Requests ahead of this one; None when it does not wait."""
        request = self._requests.get(stream_id)
        if request is None or request.engine_id is not None:
            return None
        return self._models[request.model].queue.position(stream_id)

    def tokens_received(self, model: str, engine_id: str, count: int) -> None:
        """`count` output tokens came from the replica. No message, since it happens for every token."""
        self._models[model].pool.adjust(engine_id, -count)

    # --- what happened

    def _on_offer(self, offer: Offer, now: float, commands: list[Command]) -> None:
        state = self._models[offer.model]
        request = _Request(offer.model, offer.prompt_tokens, offer.max_tokens, offer.deadline, now)
        # With nobody waiting, a request that can start needs no place in the queue.
        if len(state.queue) == 0 and state.queue.in_line == 0 and state.pool.candidates():
            self._requests[offer.stream_id] = request
            self._watch_deadline(offer.stream_id, request)
            self._dispatch(offer.stream_id, request, state, now, commands)
            return
        offered = state.queue.offer(offer.stream_id, offer.prompt_tokens)
        if offered is Offered.REFUSED:
            commands.append(Fail(offer.stream_id, self._queue_full(state, "The waiting queue is full.")))
            return
        request.in_line = offered is Offered.IN_LINE
        self._requests[offer.stream_id] = request
        self._watch_deadline(offer.stream_id, request)
        self._dispatch_waiting(state, now, commands)
        if state.pool.is_empty():
            commands.append(Wake(offer.model))

    def _on_report(self, report: EngineReported, now: float, commands: list[Command]) -> None:
        state = self._models.get(report.status.model)
        if state is not None:
            state.pool.report(report.status)
            self._dispatch_waiting(state, now, commands)

    def _on_listed(self, listed: ReplicasListed, now: float, commands: list[Command]) -> None:
        state = self._models[listed.model]
        state.pool.list_replicas(listed.engine_ids)
        self._dispatch_waiting(state, now, commands)

    def _on_gone(self, gone: EngineGone, now: float, commands: list[Command]) -> None:
        for state in self._models.values():
            state.pool.gone(gone.engine_id)
        for stream_id, request in list(self._requests.items()):
            if request.engine_id != gone.engine_id or request.failed:
                continue
            if request.accepted:
                self._fail(stream_id, request, gone.error, commands)
            else:
                self._take_back(stream_id, request, RequeueReason.ENGINE_LOST, commands)
        for state in self._models.values():
            self._dispatch_waiting(state, now, commands)

    def _on_accepted(self, accepted: EngineAccepted, now: float, commands: list[Command]) -> None:
        request = self._current(accepted.stream_id, accepted.attempt)
        if request is None or request.engine_id is None:
            return
        request.accepted = True
        self._unaccepted.discard(accepted.stream_id)
        correction = accepted.prompt_tokens - request.prompt_tokens
        request.prompt_tokens = accepted.prompt_tokens
        request.leased_tokens += correction
        self._models[request.model].pool.adjust(request.engine_id, correction)

    def _on_refused(self, refused: DispatchRefused, now: float, commands: list[Command]) -> None:
        request = self._current(refused.stream_id, refused.attempt)
        if request is None or request.engine_id is None or request.accepted or request.failed:
            return
        state = self._models[request.model]
        state.pool.refused(request.engine_id)
        self._take_back(refused.stream_id, request, refused.reason, commands)
        self._dispatch_waiting(state, now, commands)

    def _on_ended(self, ended: Ended, now: float, commands: list[Command]) -> None:
        request = self._requests.pop(ended.stream_id, None)
        if request is None:
            return
        self._unaccepted.discard(ended.stream_id)
        self._with_deadline.discard(ended.stream_id)
        state = self._models[request.model]
        if request.engine_id is None:
            state.queue.remove(ended.stream_id)
        else:
            state.pool.release(request.engine_id, request.leased_tokens - ended.output_tokens)
            state.drain.departed(now)
            if ended.completed:
                state.expected_output += 0.05 * (ended.output_tokens - state.expected_output)
        self._dispatch_waiting(state, now, commands)

    def _on_tick(self, tick: Tick, now: float, commands: list[Command]) -> None:
        for stream_id in [s for s in self._with_deadline if now >= (self._requests[s].deadline or now)]:
            self._with_deadline.discard(stream_id)
            self._fail(stream_id, self._requests[stream_id], DeadlineExceeded("The deadline passed."), commands)
        for stream_id in list(self._unaccepted):
            self._check_unaccepted(stream_id, now, commands)
        for model, state in self._models.items():
            self._dispatch_waiting(state, now, commands)
            self._check_waiting(model, state, now, commands)

    # --- decisions

    def _dispatch_waiting(self, state: _Model, now: float, commands: list[Command]) -> None:
        while (stream_id := state.queue.head()) is not None:
            request = self._requests[stream_id]
            if not request.failed and not self._dispatch(stream_id, request, state, now, commands):
                return
            state.queue.remove(stream_id)

    def _dispatch(self, stream_id: int, request: _Request, state: _Model, now: float, commands: list[Command]) -> bool:
        engine = pick(state.pool.candidates(request.avoid), self._rng)
        if engine is None:
            return False
        output = state.expected_output
        if request.max_tokens is not None:
            output = min(output, request.max_tokens)
        request.leased_tokens = request.prompt_tokens + int(output)
        state.pool.lease(engine.engine_id, request.leased_tokens)
        request.engine_id = engine.engine_id
        request.attempt += 1
        request.accepted = False
        request.dispatched_at = now
        if request.first_dispatched_at == 0.0:
            request.first_dispatched_at = now
        self._unaccepted.add(stream_id)
        commands.append(Dispatch(stream_id, request.attempt, engine.engine_id))
        return True

    def _take_back(self, stream_id: int, request: _Request, reason: RequeueReason, commands: list[Command]) -> None:
        """Undo a dispatch of which nothing was computed: to the head of the queue."""
        assert request.engine_id is not None
        state = self._models[request.model]
        state.pool.release(request.engine_id, request.leased_tokens)
        commands.append(Withdraw(stream_id, request.attempt, reason))
        request.engine_id = None
        self._unaccepted.discard(stream_id)
        state.queue.put_back(stream_id, request.prompt_tokens)

    def _check_unaccepted(self, stream_id: int, now: float, commands: list[Command]) -> None:
        request = self._requests[stream_id]
        if request.failed or request.engine_id is None:
            return
        if now - request.first_dispatched_at >= self._config.dispatch_timeout_s:
            self._fail(stream_id, request, NoEngineAvailable("No engine answered in time.", self._later()), commands)
            return
        if now - request.dispatched_at < self._config.accept_timeout_s:
            return
        elsewhere = self._models[request.model].pool.candidates(frozenset({request.engine_id}))
        if any(view.engine_id != request.engine_id for view in elsewhere):
            request.avoid = frozenset({request.engine_id})
            self._take_back(stream_id, request, RequeueReason.NOT_ACCEPTED, commands)

    def _check_waiting(self, model: str, state: _Model, now: float, commands: list[Command]) -> None:
        if state.pool.has_ready():
            state.no_engine_since = None
        elif state.no_engine_since is None:
            state.no_engine_since = now
        for stream_id in list(state.queue):
            request = self._requests[stream_id]
            if not request.failed:
                error = self._waited_too_long(model, state, stream_id, request, now)
                if error is not None:
                    self._fail(stream_id, request, error, commands)
        if len(state.queue) > 0 and state.pool.is_empty():
            commands.append(Wake(model))

    def _waited_too_long(
        self, model: str, state: _Model, stream_id: int, request: _Request, now: float
    ) -> ServeAppError | None:
        waited = now - request.offered_at
        if state.no_engine_since is not None:
            if min(waited, now - state.no_engine_since) < self._config.no_engine_timeout_s:
                return None
            return NoEngineAvailable(f"No engine replica is ready to serve {model!r}.", self._later())
        if request.in_line:
            request.in_line = state.queue.waits_in_line(stream_id)
        limit = self._config.in_line_timeout_s if request.in_line else self._config.queue_timeout_s
        return self._queue_full(state, f"No place was free within {limit:g} s.") if waited >= limit else None

    def _fail(self, stream_id: int, request: _Request, error: ServeAppError, commands: list[Command]) -> None:
        """Order the end of a stream; its place is given back when the shell reports `Ended`."""
        if not request.failed:
            request.failed = True
            commands.append(Fail(stream_id, error))

    def _queue_full(self, state: _Model, message: str) -> QueueFull:
        ahead = len(state.queue) + state.queue.in_line
        return QueueFull(message, state.drain.retry_after_s(ahead, self._rng))

    def _later(self) -> float:
        return self._rng.uniform(2.0, 5.0)

    def _watch_deadline(self, stream_id: int, request: _Request) -> None:
        if request.deadline is not None:
            self._with_deadline.add(stream_id)

    def _current(self, stream_id: int, attempt: int) -> _Request | None:
        request = self._requests.get(stream_id)
        return request if request is not None and request.attempt == attempt else None
