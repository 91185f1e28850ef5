"""Drives a router core as the async shell does, and keeps what it ordered. No clock runs: tests say what time it is."""

from __future__ import annotations

import random
from collections import deque

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import EngineFailed, EngineLost, ServeAppError
from serve_app.core.request import ANONYMOUS_TENANT, Priority
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.engine_pool import EngineView
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
    Offer,
    ReplicasListed,
    RoomMade,
    Tick,
    TickAt,
    Wake,
    Withdraw,
)
from serve_app.router.decisions.model_core import ModelCore
from serve_app.telemetry.reasons import RequeueReason

MODEL = "m"


class DrivenCore:
    """`now` is the clock reading of whatever is told next. A `Fail` is answered with `Ended`, as the shell does."""

    def __init__(self, *engines: str, capacity: int = 2, **config: object) -> None:
        self.core = RouterCore([MODEL], RouterConfig.model_validate(config), random.Random(0))
        self.now = 0.0
        self._orders: deque[Command] = deque()
        self._carrying_out = False
        self.capacity = capacity
        self.steps = dict.fromkeys(engines, 1000)
        self.running: dict[int, Dispatch] = {}
        """The last dispatch of each stream that is at a replica."""
        self.hedges: dict[int, Dispatch] = {}
        """The second attempt of each stream that has two."""
        self.replays: list[Dispatch] = []
        self.withdrawn: list[Withdraw] = []
        self.failed: dict[int, Fail] = {}
        self.ticks_asked: list[float] = []
        self.wakes = 0
        self.received: dict[int, int] = {}
        self.list_replicas(*engines)
        for engine in engines:
            self.report(engine)

    @property
    def model(self) -> ModelCore:
        return self.core.model(MODEL)

    def engine_of(self, stream_id: int) -> str | None:
        dispatch = self.running.get(stream_id)
        return None if dispatch is None else dispatch.engine_id

    def view(self, engine: str) -> EngineView:
        view = self.model.pool.view(engine)
        assert view is not None
        return view

    def errors(self) -> dict[int, type[ServeAppError]]:
        return {stream_id: type(fail.error) for stream_id, fail in self.failed.items()}

    def reasons(self, stream_id: int) -> list[RequeueReason]:
        return [w.reason for w in self.withdrawn if w.stream_id == stream_id]

    # --- what happens

    def tell(self, happened: Happened) -> list[Command]:
        """What it orders in answer; what that brings about is ordered behind it, as in the shell."""
        commands = self.core.handle(happened, self.now)
        self._orders.extend(commands)
        while self._orders and not self._carrying_out:
            command = self._orders.popleft()
            self._carrying_out = True
            match command:
                case Dispatch(hedge=True):
                    assert command.stream_id in self.running
                    assert command.stream_id not in self.hedges
                    self.hedges[command.stream_id] = command
                case Dispatch():
                    assert command.stream_id not in self.running
                    self.running[command.stream_id] = command
                    if command.replay:
                        self.replays.append(command)
                case Withdraw():
                    self._withdraw(command)
                    self.withdrawn.append(command)
                case Fail():
                    assert command.stream_id not in self.failed
                    self.failed[command.stream_id] = command
                    self.end(command.stream_id, completed=False)
                case TickAt():
                    self.ticks_asked.append(command.at)
                case Wake():
                    self.wakes += 1
            self._carrying_out = False
        return commands

    def _withdraw(self, command: Withdraw) -> None:
        hedge = self.hedges.pop(command.stream_id, None)
        if hedge is None:
            assert self.running.pop(command.stream_id).attempt == command.attempt
        elif hedge.attempt != command.attempt:
            assert self.running[command.stream_id].attempt == command.attempt
            self.running[command.stream_id] = hedge

    def list_replicas(self, *engines: str, group: str = "") -> None:
        self.tell(ReplicasListed(MODEL, frozenset(engines), group))

    def report(
        self,
        engine: str,
        *,
        stepped: bool = False,
        running: int = 1,
        ready: bool = True,
        capacity: int | None = None,
        generated_tokens: int = 1_000_000,
    ) -> None:
        """A heartbeat; by default of a replica that has long been in service, so that it does not start slowly."""
        self.steps[engine] = self.steps.get(engine, 1000) + stepped
        load = EngineLoad(steps=self.steps[engine], generated_tokens=generated_tokens, running=running)
        status = EngineStatus(engine, MODEL, load, capacity or self.capacity, 0, 1, ready, 2048)
        self.tell(EngineReported(status))

    def offer(
        self,
        stream_id: int,
        tokens: int = 10,
        max_tokens: int | None = 16,
        deadline: float | None = None,
        tenant: str = ANONYMOUS_TENANT,
        priority: Priority = Priority.DEFAULT,
        continuable: bool = True,
        hedgeable: bool = True,
        least_tokens: int = 0,
        choices: int = 1,
        groups: frozenset[str] | None = None,
    ) -> None:
        offer = Offer(
            stream_id,
            MODEL,
            tokens,
            max_tokens,
            deadline,
            tenant,
            priority,
            continuable,
            hedgeable=hedgeable,
            choices=choices,
            least_prompt_tokens=least_tokens,
            groups=groups,
        )
        self.tell(offer)

    def accept(self, stream_id: int, prompt_tokens: int = 10) -> None:
        self.tell(EngineAccepted(stream_id, self.running[stream_id].attempt, prompt_tokens))

    def tokens(self, stream_id: int, count: int = 1) -> None:
        self.received[stream_id] = self.received.get(stream_id, 0) + count
        if self.core.tokens_received(stream_id, count, self.now):
            self.tell(RoomMade())

    def begin(self, stream_id: int, *, received: int = 1, **offer: object) -> str:
        """Offered, dispatched, accepted, and `received` output tokens came (0: it waits for its first); its replica."""
        self.offer(stream_id, **offer)  # type: ignore[arg-type]  # its own keywords
        self.accept(stream_id, self.model.streams[stream_id].prompt_tokens)
        if received:
            self.tokens(stream_id, received)
        return self.running[stream_id].engine_id

    def begin_unanswered(self, stream_id: int) -> str:
        """Offered and dispatched, but not accepted; its replica."""
        self.offer(stream_id)
        return self.running[stream_id].engine_id

    def refuse(self, stream_id: int, reason: RequeueReason = RequeueReason.ENGINE_FULL) -> None:
        self.tell(DispatchRefused(stream_id, self.running[stream_id].attempt, reason))

    def fail_attempt(self, stream_id: int, error: ServeAppError | None = None) -> None:
        self.tell(AttemptFailed(stream_id, self.running[stream_id].attempt, error or EngineFailed("raised")))

    def lose(self, engine: str, error: ServeAppError | None = None) -> None:
        self.tell(EngineGone(engine, error or EngineLost("gone")))

    def end(self, stream_id: int, completed: bool = True) -> None:
        self.running.pop(stream_id, None)
        self.hedges.pop(stream_id, None)
        self.tell(Ended(stream_id, completed))

    def tick(self, now: float) -> list[Command]:
        self.now = now
        return self.tell(Tick())
