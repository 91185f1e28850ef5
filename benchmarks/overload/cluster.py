"""Engine replicas behind a network: calls that travel, heartbeats, a cap, death, cold start of new replicas."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.overload.call_engine import CallEngine
from benchmarks.overload.event_loop import EventLoop
from benchmarks.overload.jobs import MODEL, Attempt, Job, JobListener
from benchmarks.overload.step_engine import StepEngine
from serve_app.core.engine_status import EngineStatus

if TYPE_CHECKING:
    from benchmarks.overload.policy import Policy

Backend = StepEngine | CallEngine
MakeBackend = Callable[[EventLoop, JobListener], Backend]

MAX_MODEL_LEN = 8192
PROGRESS_S = 0.1
"""Tokens of running streams travel in batches this often; first and last tokens at once."""


@dataclass(eq=False)
class Replica:
    """One engine replica. `capacity` is its own hard cap on generations; beyond it it refuses."""

    engine_id: str
    engine: Backend
    capacity: int
    delay_s: float
    """Network delay between router and replica, one way; constant, so that messages stay in order."""
    heartbeat_s: float
    alive: bool = True
    listed: bool = False
    generations: set[Attempt] = field(default_factory=set)
    doomed_at: float | None = None
    """When it will be killed: known to the oracle only."""
    bad_from: float | None = None
    """From when on it is slow or cold: known to the oracle only."""

    def status(self) -> EngineStatus:
        """Its heartbeat."""
        return EngineStatus(
            engine_id=self.engine_id, model=MODEL, load=self.engine.load(), capacity=self.capacity,
            generations=len(self.generations), routers=1, ready=True, max_model_len=MAX_MODEL_LEN,
        )  # fmt: skip


class Cluster:
    """All replicas of the model, and what happens to them."""

    def __init__(
        self,
        loop: EventLoop,
        rng: random.Random,
        make: MakeBackend,
        capacity: int,
        network_s: tuple[float, float] = (0.0, 0.0),
        load_s: float = 0.0,
    ) -> None:
        """`network_s` bounds the one-way delay to a replica, drawn for each. A replica that is started by `wake` is
        ready after `load_s` seconds."""
        self.loop = loop
        self.replicas: dict[str, Replica] = {}
        self.load_s = load_s
        self._rng = rng
        self._make = make
        self._capacity = capacity
        self._network_s = network_s
        self._policy: Policy | None = None
        self._waking = False
        self._started = 0
        self.dispatches: list[tuple[float, str]] = []
        """Time and target of every attempt that an engine took."""

    def connect(self, policy: Policy) -> None:
        """From now on `policy` is told."""
        self._policy = policy

    # --- replicas

    def add(self) -> Replica:
        """A replica comes up, ready; the policy learns of it."""
        engine_id = f"engine-{self._started}"
        self._started += 1
        replica: Replica | None = None

        class Listener:
            """Sends the engine's output to whoever dispatched the attempt."""

            def tokens(self, job: Job, first: int, count: int) -> None:
                attempt = job.attempt
                cluster.to_router(replica, cluster.policy.tokens, attempt, attempt.first_index + first, count)

            def finished(self, job: Job) -> None:
                cluster._over(replica, job.attempt)
                cluster.to_router(replica, cluster.policy.finished, job.attempt)

            def failed(self, job: Job) -> None:
                cluster._over(replica, job.attempt)
                cluster.to_router(replica, cluster.policy.failed, job.attempt)

        cluster = self
        delay_s = 0.0 if self.policy.omniscient else self._rng.uniform(*self._network_s)
        replica = Replica(
            engine_id, self._make(self.loop, Listener()), self._capacity, delay_s, self._rng.uniform(0.1, 0.5)
        )
        self.replicas[engine_id] = replica
        replica.listed = True
        self.policy.listed(self._listed())
        self._heartbeat(replica)
        if self.policy.wants_progress:
            self._progress(replica)
        return replica

    def wake(self) -> None:
        """Serve sees demand for a model without replicas, and starts one."""
        if self._waking or any(replica.alive for replica in self.replicas.values()):
            return
        self._waking = True
        self.loop.after(self.load_s, self._woken)

    def kill(self, engine_id: str) -> None:
        """SIGKILL: calls fail after 15 to 40 ms, Serve's list follows within half a second."""
        replica = self.replicas[engine_id]
        replica.engine.kill()
        replica.alive = False
        replica.generations.clear()
        self.loop.after(self._rng.uniform(0.015, 0.040), self.policy.died, engine_id)
        self.loop.after(self._rng.uniform(0.1, 0.5), self._unlist, replica)

    # --- calls

    def start(self, attempt: Attempt) -> None:
        """The router calls the engine for this attempt."""
        replica = self.replicas[attempt.engine_id]
        self.loop.after(replica.delay_s, self._arrive, replica, attempt)

    def abort(self, attempt: Attempt) -> None:
        """The router gives the attempt up."""
        attempt.cancelled = True
        replica = self.replicas[attempt.engine_id]
        self.loop.after(replica.delay_s, self._abort, replica, attempt)

    def to_router(self, replica: Replica | None, what: Callable[..., None], *args: object) -> None:
        """A message from a replica arrives at the router."""
        assert replica is not None
        if replica.delay_s:
            self.loop.after(replica.delay_s, what, *args)
        else:
            what(*args)

    @property
    def computed(self) -> float:
        """Work of all engines so far."""
        return sum(replica.engine.computed for replica in self.replicas.values())

    @property
    def policy(self) -> Policy:
        """What stands between the clients and this cluster."""
        assert self._policy is not None
        return self._policy

    def _arrive(self, replica: Replica, attempt: Attempt) -> None:
        if attempt.cancelled:
            return
        if not replica.alive:
            self.loop.after(self._rng.uniform(0.015, 0.040), self.policy.died, replica.engine_id)
            return
        if len(replica.generations) >= replica.capacity:
            self.to_router(replica, self.policy.rejected, attempt)
            return
        ask = attempt.request.ask
        attempt.job = Job(
            attempt, ask.prompt_tokens + attempt.first_index, ask.output_tokens - attempt.first_index, ask.calls
        )
        ask.calls += 1
        ask.started = True
        replica.generations.add(attempt)
        self.dispatches.append((self.loop.now, replica.engine_id))
        self.to_router(replica, self.policy.accepted, attempt)
        replica.engine.submit(attempt.job)

    def _abort(self, replica: Replica, attempt: Attempt) -> None:
        if attempt.job is not None and attempt in replica.generations:
            replica.engine.abort(attempt.job)
            self._over(replica, attempt)

    def _over(self, replica: Replica | None, attempt: Attempt) -> None:
        assert replica is not None
        replica.generations.discard(attempt)

    def _woken(self) -> None:
        self._waking = False
        self.add()

    def _unlist(self, replica: Replica) -> None:
        replica.listed = False
        self.policy.listed(self._listed())

    def _listed(self) -> frozenset[str]:
        return frozenset(replica.engine_id for replica in self.replicas.values() if replica.listed)

    def _progress(self, replica: Replica) -> None:
        if replica.alive:
            replica.engine.flush()
            self.loop.after(PROGRESS_S, self._progress, replica)

    def _heartbeat(self, replica: Replica) -> None:
        if not replica.alive:
            return
        self.to_router(replica, self.policy.reported, replica.status())
        self.loop.after(replica.heartbeat_s, self._heartbeat, replica)
