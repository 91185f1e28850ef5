"""The real `RouterCore` in virtual time: a shell that does what `serve_app.router.lifecycle` does, without asyncio."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from benchmarks.overload.clients import Refusal
from benchmarks.overload.jobs import MODEL, Attempt, Request
from benchmarks.overload.policy import Surroundings
from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import EngineFailed, EngineLost, Refused, ServeAppError
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import (
    AttemptFailed,
    Command,
    Dispatch,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    EngineReported,
    Fail,
    Happened,
    HedgeWon,
    Offer,
    ReplicasListed,
    RoomMade,
    Tick,
    TickAt,
    Wake,
    Withdraw,
)
from serve_app.telemetry.reasons import RequeueReason

TICK_S = 0.1
"""As in the lifecycle."""
MAX_TOKENS = 1024
"""What clients ask for; no answer reaches it, so it tells nothing of the length."""


@dataclass(slots=True, eq=False)
class _Stream:
    """What the lifecycle's stream keeps: the present attempt fences off events of older ones."""

    stream_id: int
    request: Request
    attempt: Attempt | None = None
    hedge: Attempt | None = None
    """The second attempt, while two run."""
    next_index: int = 0


class ServeAppPolicy:
    """One router replica."""

    omniscient = False
    wants_progress = True

    def __init__(self, given: Surroundings, config: RouterConfig) -> None:
        self._given = given
        self._estimate = random.Random(given.rng.random())
        self.core = RouterCore([MODEL], config, random.Random(given.rng.random()))
        self._streams: dict[int, _Stream] = {}
        self._by_request: dict[Request, _Stream] = {}
        self._commands: deque[Command] = deque()
        self._carrying_out = False
        self._newest_id = 0
        given.loop.after(TICK_S, self._tick)

    # --- what happens

    def offered(self, request: Request) -> None:
        """See `Policy`. The prompt's length is an estimate until the engine has counted it."""
        self._newest_id += 1
        stream = _Stream(self._newest_id, request)
        self._streams[stream.stream_id] = self._by_request[request] = stream
        ask = request.ask
        estimate = max(1, round(ask.prompt_tokens * self._estimate.uniform(0.85, 1.15)))
        self._handle(Offer(stream.stream_id, MODEL, estimate, MAX_TOKENS, None, ask.tenant))

    def left(self, request: Request) -> None:
        """See `Policy`."""
        stream = self._by_request.get(request)
        if stream is not None:
            self._end(stream, completed=False)

    def listed(self, engine_ids: frozenset[str]) -> None:
        """See `Policy`."""
        self._handle(ReplicasListed(MODEL, engine_ids))

    def died(self, engine_id: str) -> None:
        """See `Policy`."""
        self._handle(EngineGone(engine_id, EngineLost("The engine replica died.")))

    def reported(self, status: EngineStatus) -> None:
        """See `Policy`."""
        self._handle(EngineReported(status))

    def accepted(self, attempt: Attempt) -> None:
        """See `Policy`."""
        stream = self._live(attempt)
        if stream is not None:
            prompt_tokens = attempt.request.ask.prompt_tokens
            self._handle(EngineAccepted(stream.stream_id, attempt.number, prompt_tokens))

    def rejected(self, attempt: Attempt) -> None:
        """See `Policy`."""
        stream = self._live(attempt)
        if stream is not None:
            self._handle(DispatchRefused(stream.stream_id, attempt.number, RequeueReason.ENGINE_FULL))

    def tokens(self, attempt: Attempt, first: int, count: int) -> None:
        """See `Policy`."""
        stream = self._live(attempt)
        if stream is not None and stream.hedge is attempt:
            self._handle(HedgeWon(stream.stream_id, attempt.number))
        stream = self._current(attempt)
        if stream is not None:
            stream.next_index = first + count
            attempt.request.client.send_tokens(attempt.request, first, count)
            if self.core.tokens_received(stream.stream_id, count, self._given.loop.now):
                self._handle(RoomMade())

    def finished(self, attempt: Attempt) -> None:
        """See `Policy`."""
        stream = self._current(attempt)
        if stream is not None:
            attempt.request.client.send_end(attempt.request)
            self._end(stream, completed=True)

    def failed(self, attempt: Attempt) -> None:
        """See `Policy`."""
        stream = self._live(attempt)
        if stream is not None:
            error = EngineFailed("The simulated call failed.")
            self._handle(AttemptFailed(stream.stream_id, attempt.number, error))

    # --- carrying out commands

    def _tick(self) -> None:
        self._handle(Tick())
        self._given.loop.after(TICK_S, self._tick)

    def _handle(self, happened: Happened) -> None:
        self._commands.extend(self.core.handle(happened, self._given.loop.now))
        if self._carrying_out:
            return
        self._carrying_out = True
        while self._commands:
            self._carry_out(self._commands.popleft())
        self._carrying_out = False

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Wake):
            self._given.cluster.wake()
            return
        if isinstance(command, TickAt):
            self._given.loop.at(command.at, self._handle, Tick())
            return
        stream = self._streams.get(command.stream_id)
        if stream is None:
            return
        match command:
            case Dispatch():
                attempt = Attempt(stream.request, command.engine_id, command.attempt, stream.next_index)
                if command.hedge:
                    stream.hedge = attempt
                else:
                    stream.attempt = attempt
                self._given.cluster.start(attempt)
            case Withdraw():
                if stream.hedge is not None and stream.hedge.number == command.attempt:
                    self._given.cluster.abort(stream.hedge)
                    stream.hedge = None
                elif stream.attempt is not None and stream.attempt.number == command.attempt:
                    self._given.cluster.abort(stream.attempt)
                    stream.attempt, stream.hedge = stream.hedge, None
            case Fail():
                stream.request.client.send_refusal(stream.request, refusal(command.error))
                self._end(stream, completed=False)

    def _end(self, stream: _Stream, completed: bool) -> None:
        del self._streams[stream.stream_id]
        del self._by_request[stream.request]
        if stream.attempt is not None and not completed:
            self._given.cluster.abort(stream.attempt)
        if stream.hedge is not None:
            self._given.cluster.abort(stream.hedge)
        stream.attempt = stream.hedge = None
        self._handle(Ended(stream.stream_id, completed))

    def _current(self, attempt: Attempt) -> _Stream | None:
        stream = self._by_request.get(attempt.request)
        return stream if stream is not None and stream.attempt is attempt else None

    def _live(self, attempt: Attempt) -> _Stream | None:
        """The stream, if this is one of its attempts that run."""
        stream = self._by_request.get(attempt.request)
        return stream if stream is not None and attempt in (stream.attempt, stream.hedge) else None


def refusal(error: ServeAppError) -> Refusal:
    """The HTTP answer to this error, as the ingress gives it."""
    retry_after_s = error.retry_after_s if isinstance(error, Refused) else None
    return Refusal(error.status, retry_after_s, error.retryable)
