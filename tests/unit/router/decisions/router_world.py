"""A router core among replicas that do whatever they like, and a naive model of what it must and must not do.

The naive model keeps what an observer outside could write down: who was offered, dispatched and ended, what replicas
reported. Everything that the core orders is held against it at once, and the whole of it after each event.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import ChannelLost, EngineLost, InvalidRequest, ServeAppError
from serve_app.core.request import Priority
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
from tests.unit.router.decisions.router_world_accounts import check_leases, check_places, second_attempts
from tests.unit.router.decisions.router_world_bounds import (
    BUDGET_MINIMUM,
    BUDGET_SHARE,
    CAPACITY,
    DISPATCH_TIMEOUT_S,
    ENGINES,
    HEDGE_TARGET_S,
    MAX_LOSSES,
    MAX_RETRIES,
    MODEL,
    QUEUE_TIMEOUT_S,
    STALL_CEILING_S,
    TYPICAL_S,
    config,
)
from tests.unit.router.decisions.router_world_records import Attempt, Client, Engine


@dataclass(slots=True)
class World:
    """Tell it what happens; it raises AssertionError where the core breaks a promise."""

    when_full: str = "refuse"
    hedging: str = "off"
    """`elsewhere`, or `same_replica` where the replica of the first attempt will do."""
    mixed: bool = False
    """The pool has two deployments."""
    now: float = 0.0
    clients: dict[int, Client] = field(default_factory=dict)
    """Those that have not ended."""
    ended: set[int] = field(default_factory=set)
    running: dict[int, Attempt] = field(default_factory=dict)
    seconds: dict[int, Attempt] = field(default_factory=dict)
    """Second attempts of streams that run."""
    hedges: int = 0
    winner: int | None = None
    """Stream whose second attempt just gave the first token."""
    room_made: bool = False
    listed: frozenset[str] = frozenset()
    engines: dict[str, Engine] = field(default_factory=dict)
    ready_since: float | None = None
    newest: int = 0
    orders: deque[Command] = field(default_factory=deque)
    carrying_out: bool = False
    core: RouterCore = field(init=False)

    def __post_init__(self) -> None:
        self.core = RouterCore([MODEL], config(self.when_full, self.hedging), random.Random(7))
        self._watch_budget()
        # Second attempts are to be frequent, whatever first tokens are seen.
        timeouts = self.core.model(MODEL).attempts.timeouts
        timeouts.typical_first_token_s = lambda *_: TYPICAL_S  # type: ignore[method-assign]  # fixed in tests

    # --- what happens

    def offer(
        self, tokens: int, patience_s: float | None, tenant: str, priority: Priority, max_tokens: int | None, one: bool
    ) -> None:
        self.newest += 1
        deadline = None if patience_s is None else self.now + patience_s
        offer = Offer(self.newest, MODEL, tokens, max_tokens, deadline, tenant, priority, one)
        self.clients[self.newest] = Client(offer, self.now, self.now)
        self.tell(offer)

    def list_replicas(self, engines: frozenset[str]) -> None:
        """Serve tells each deployment's list by itself."""
        for group in sorted({self._group_of(engine) for engine in ENGINES}):
            mine = frozenset(engine for engine in engines if self._group_of(engine) == group)
            others = frozenset(engine for engine in self.listed if self._group_of(engine) != group)
            self.listed = mine | others
            for engine in set(self.engines) - self.listed:
                self._forget_if_idle(engine)
            self.tell(ReplicasListed(MODEL, mine, group))

    def report(self, engine: str, load: EngineLoad, routers: int, ready: bool, generations: int = 0) -> None:
        status = EngineStatus(engine, MODEL, load, CAPACITY, generations, routers, ready, 0)
        known = self.engines.get(engine)
        stepped = known is None or known.status.load.steps != load.steps
        self.engines[engine] = Engine(status, self.now if stepped or known is None else known.stepped_at)
        self.tell(EngineReported(status))

    def lose(self, engine: str, dead: bool) -> None:
        if engine in self.engines:
            self.engines[engine].silent = True
        self.tell(EngineGone(engine, EngineLost("gone") if dead else ChannelLost("silent")))
        if engine in self.engines:
            self._forget_if_idle(engine)
        assert engine not in self._places_in_use(), "left at a lost replica"

    def accept(self, stream_id: int, tokens: int) -> None:
        attempt = self.running[stream_id]
        attempt.accepted = True
        self.clients[stream_id].unanswered_since = None
        self.tell(EngineAccepted(stream_id, attempt.number, tokens))

    def accept_second(self, stream_id: int, tokens: int) -> None:
        attempt = self.seconds[stream_id]
        attempt.accepted = True
        self.tell(EngineAccepted(stream_id, attempt.number, tokens))

    def give_tokens(self, stream_id: int, count: int, last_of_batch: bool = True) -> None:
        """The engine's first answer comes before its first token."""
        if not self.running[stream_id].accepted:
            self.accept(stream_id, self.clients[stream_id].offer.prompt_tokens)
        self.running[stream_id].token_at = self.now
        client = self.clients[stream_id]
        client.received += count
        client.group = client.group or self._group_of(self.running[stream_id].engine)
        self.room_made |= self.core.tokens_received(stream_id, count, self.now)
        if self.room_made and last_of_batch:
            self.room_made = False
            self.tell(RoomMade())
            begun = [one for one in self.seconds if self.running[one].token_at is not None]
            assert not begun, "two attempts after the first token"

    def second_wins(self, stream_id: int, count: int) -> None:
        """The second attempt gives the first token."""
        second = self.seconds[stream_id]
        if not second.accepted:
            self.accept_second(stream_id, self.clients[stream_id].offer.prompt_tokens)
        self.winner = stream_id
        self.tell(HedgeWon(stream_id, second.number))
        self.winner = None
        assert self.running[stream_id] is second, "who gave the first token goes on"
        self.give_tokens(stream_id, count)

    def refuse(self, stream_id: int, stale: bool) -> None:
        """Engines refuse what they have not accepted; a refusal may come late."""
        attempt = self.running[stream_id]
        if not stale and not attempt.accepted:
            self.engines[attempt.engine].said_no = True
            if stream_id not in self.seconds:
                self.clients[stream_id].unanswered_since = None
        self.tell(DispatchRefused(stream_id, attempt.number - stale, RequeueReason.ENGINE_FULL))
        if stale or attempt.accepted:
            assert self.running.get(stream_id) is attempt, "a refusal that is void counted"

    def fail_attempt(self, stream_id: int, stale: bool, error: ServeAppError) -> None:
        attempt = self.running[stream_id]
        permit = self.core.model(MODEL).streams[stream_id].permit
        assert permit is not None
        breaker = permit.replica.breaker
        stays_closed = breaker.is_closed and permit.generation != breaker.generation
        self.tell(AttemptFailed(stream_id, attempt.number - stale, error))
        assert not stays_closed or breaker.is_closed, "a failure of an older generation opened the breaker"
        if stale:
            assert self.running.get(stream_id) is attempt, "an older attempt's failure counted"
        elif isinstance(error, InvalidRequest):
            assert stream_id in self.ended, "a wrong request was tried again"

    def lose_second(self, stream_id: int, error: ServeAppError | None) -> None:
        """The second attempt fails, or is refused: without `error`."""
        first, second = self.running[stream_id], self.seconds[stream_id]
        void = error is None and second.accepted
        if error is None:
            self.engines[second.engine].said_no |= not second.accepted
            self.tell(DispatchRefused(stream_id, second.number, RequeueReason.ENGINE_FULL))
        else:
            self.tell(AttemptFailed(stream_id, second.number, error))
        assert self.running.get(stream_id) is first, "the first attempt did not go on"
        assert (stream_id in self.seconds) == void

    def end(self, stream_id: int, completed: bool) -> None:
        assert stream_id not in self.ended, "ended twice"
        self.clients.pop(stream_id)
        self.ended.add(stream_id)
        for attempt in (self.running.pop(stream_id, None), self.seconds.pop(stream_id, None)):
            if attempt is not None:
                self._forget_if_idle(attempt.engine)
        self.tell(Ended(stream_id, completed))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())
        for stream_id, client in self.clients.items():
            assert client.offer.deadline is None or self.now < client.offer.deadline, "outlived its deadline"
            attempt = self.running.get(stream_id)
            if attempt is None:
                since = max(client.since, self.ready_since or 0.0)
                assert self.ready_since is None or self.now - since < QUEUE_TIMEOUT_S, "waited for ever"
            else:
                self._is_not_overdue(client, attempt)

    # --- the core's orders

    def tell(self, happened: Happened) -> None:
        """As the shell does: what an order brings about is ordered behind the orders before it."""
        self.orders.extend(self.core.handle(happened, self.now))
        if self.carrying_out:
            return
        self.carrying_out = True
        while self.orders:
            command = self.orders.popleft()
            if not isinstance(command, Wake | TickAt) and command.stream_id in self.ended:
                continue  # it ended while the order waited
            match command:
                case Dispatch(hedge=True):
                    self._hedge(command)
                case Dispatch():
                    self._dispatch(command)
                case Withdraw():
                    self._withdraw(command)
                case Fail():
                    assert command.stream_id in self.clients, "failed what is over"
                    self.end(command.stream_id, completed=False)
                case TickAt():
                    assert command.at >= self.now
                case Wake():
                    assert not self.listed, "woke a model that is there"
        self.carrying_out = False
        ready = any(self._is_ready(engine) for engine in self.engines)
        if not ready:
            self.ready_since = None
        elif self.ready_since is None:
            self.ready_since = self.now

    def _dispatch(self, command: Dispatch) -> None:
        client = self.clients[command.stream_id]
        deadline = client.offer.deadline
        assert command.stream_id not in self.running, "dispatched twice at once"
        assert self._is_ready(command.engine_id), "dispatched to a replica that is not there"
        assert not self.engines[command.engine_id].said_no, "dispatched to a replica that had just said no"
        assert command.replay == (client.received > 0), "what was received must not be generated again"
        assert not client.received or client.offer.continuable, "continued what cannot be"
        assert deadline is None or self.now < deadline, "dispatched after its deadline"
        assert command.group == self._group_of(command.engine_id)
        assert client.group in (None, command.group), "continued by another deployment"
        self.running[command.stream_id] = Attempt(command.attempt, command.engine_id, self.now)
        if client.unanswered_since is None:
            client.unanswered_since = self.now

    def _hedge(self, command: Dispatch) -> None:
        client, first = self.clients[command.stream_id], self.running[command.stream_id]
        deadline = client.offer.deadline
        self.hedges += 1
        assert self.hedging != "off"
        assert not client.hedged, "hedged twice"
        assert not client.received, "hedged after the first token"
        assert not command.replay
        assert first.token_at is None
        assert self.now < client.offered_at + HEDGE_TARGET_S, "hedged too late to be of use"
        assert self.hedging == "same_replica" or command.engine_id != first.engine, "hedged where it runs"
        assert self._is_ready(command.engine_id), "hedged at a replica that is not there"
        assert not self.engines[command.engine_id].said_no, "hedged at a replica that had just said no"
        assert deadline is None or self.now < deadline, "hedged after its deadline"
        assert command.attempt > first.number
        client.hedged = True
        self.seconds[command.stream_id] = Attempt(command.attempt, command.engine_id, self.now)

    def _withdraw_one(self, command: Withdraw) -> None:
        """One of two attempts is given up; the other goes on."""
        client = self.clients[command.stream_id]
        first, second = self.running[command.stream_id], self.seconds.pop(command.stream_id)
        given_up = first if command.attempt == first.number else second
        assert given_up.number == command.attempt
        if given_up is first:
            assert first.token_at is None, "gave up what had begun"
            assert (command.reason is RequeueReason.OUTRUN) == (self.winner == command.stream_id)
            self.running[command.stream_id] = second
            if second.accepted:
                client.unanswered_since = None
            elif command.reason is not RequeueReason.NOT_ACCEPTED:
                client.unanswered_since = second.at
        else:
            assert (command.reason is RequeueReason.OUTRUN) == (first.token_at is not None)
        self._forget_if_idle(given_up.engine)
        assert given_up.accepted or not command.wasted_tokens
        client.losses += command.reason is RequeueReason.ENGINE_LOST
        if given_up.accepted:
            client.since = self.now

    def _withdraw(self, command: Withdraw) -> None:
        if command.stream_id in self.seconds:
            self._withdraw_one(command)
            return
        attempt, client = self.running.pop(command.stream_id), self.clients[command.stream_id]
        assert command.reason is not RequeueReason.OUTRUN
        self._forget_if_idle(attempt.engine)
        assert attempt.number == command.attempt
        assert command.wasted_tokens >= client.received * attempt.accepted
        assert attempt.accepted or not command.wasted_tokens
        match command.reason:
            case RequeueReason.FIRST_TOKEN_TIMEOUT:
                assert attempt.token_at is None, "moved for a first token that had come"
                client.retries += not client.received
            case RequeueReason.ENGINE_FAILED:
                client.retries += not client.received
                client.losses += client.received > 0
            case RequeueReason.ENGINE_LOST:
                client.losses += 1
            case RequeueReason.STALLED:
                client.losses += 1
        if attempt.accepted:
            client.since = self.now
        if command.reason in {RequeueReason.ENGINE_LOST, RequeueReason.ENGINE_FAILED}:
            client.unanswered_since = None
        assert client.retries <= MAX_RETRIES, "retried too often"
        assert client.losses <= MAX_LOSSES, "visited too many replicas"

    # --- the naive model

    def _is_ready(self, engine: str) -> bool:
        known = self.engines.get(engine)
        return known is not None and known.status.ready and not known.silent and engine in self.listed

    def _group_of(self, engine: str) -> str:
        return f"deployment {ENGINES.index(engine) % 2}" if self.mixed else "deployment"

    def _places_in_use(self) -> list[str]:
        return [attempt.engine for attempt in (*self.running.values(), *self.seconds.values())]

    def _forget_if_idle(self, engine: str) -> None:
        if engine not in self.listed and engine not in self._places_in_use():
            self.engines.pop(engine, None)

    def _is_not_overdue(self, client: Client, attempt: Attempt) -> None:
        if not attempt.accepted:
            assert client.unanswered_since is not None
            waited_s = self.now - client.unanswered_since
            just_sent = attempt.at == self.now  # by what the tick brought about
            assert just_sent or waited_s < DISPATCH_TIMEOUT_S, "nobody answers, and nobody minds"
        elif attempt.token_at is not None:
            silent_s = self.now - max(attempt.token_at, self.engines[attempt.engine].stepped_at)
            assert silent_s < STALL_CEILING_S, "stuck, and nobody minds"

    def _watch_budget(self) -> None:
        """Each grant of the retry budget is held against what runs."""
        core = self.core.model(MODEL)
        grant = core.budget.try_take

        def try_take(tokens: int) -> bool:
            held = [*core.streams.values(), *second_attempts(core).values()]
            taken = [s.budget_tokens for s in held if s.budget_tokens is not None]
            in_flight = sum(s.leased_tokens for s in held if s.engine_id is not None)
            granted = grant(tokens)
            fits = len(taken) < BUDGET_MINIMUM or sum(taken) + tokens <= BUDGET_SHARE * in_flight
            assert granted == fits, "the retry budget is not what it should be"
            return granted

        core.budget.try_take = try_take  # type: ignore[method-assign]  # a spy

    # --- what always holds

    def check(self) -> None:
        """Streams are in one place each, and what they hold adds up to what is counted."""
        core = self.core.model(MODEL)
        check_places(self, core)
        check_leases(self, core)
        self._work_is_conserved()

    def _work_is_conserved(self) -> None:
        core = self.core.model(MODEL)
        if len(core.queue) and self._some_is_ready():
            # The slow start of a replica makes room as it ages, which is acted upon with the next tick.
            self.tell(Tick())
            assert not len(core.queue) or not core.attempts.candidates(self.now), "waits while there is room"

    def _some_is_ready(self) -> bool:
        return any(self._is_ready(engine) for engine in self.engines)
