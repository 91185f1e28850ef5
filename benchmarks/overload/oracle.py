"""The oracle: what could be had by who knows everything, in order of arrival.

It sees the engines without delay, knows how long every answer will be, and which replica will die, is slow or cold and
when. It admits a request exactly when it can be served within the objective: it computes when a place in some replica's
batch will be free, refuses at once when that is too late, and dispatches to the moment: the tenant served least first,
each tenant's requests in order of arrival. No work is ever lost to it: batches are full while anybody waits, but never
so full that the KV cache overflows (it knows how the running answers will grow), and nothing is dispatched to a replica
that will fail it. So its goodput is an upper bound for policies that do not prefer some lengths to others; by serving
cheap requests only one could have more.
"""

from __future__ import annotations

from collections import deque

from benchmarks.overload.call_engine import CallEngine
from benchmarks.overload.clients import Refusal
from benchmarks.overload.cluster import Replica
from benchmarks.overload.jobs import Attempt, Request
from benchmarks.overload.lengths import OUTPUT_TOKENS, PROMPT_TOKENS
from benchmarks.overload.policy import Surroundings
from benchmarks.overload.step_engine import StepEngine
from serve_app.core.engine_status import EngineStatus

_RETRY_AFTER_S = 5.0
_WAIT_SHARE = 0.35
"""An admitted request waits at most this share of the time-to-first-token objective, by prediction; the rest is for its
own prompt, however long it is, so that admission does not choose by length."""


class Oracle:
    """See the module. Everything it is told arrives without delay."""

    omniscient = True
    wants_progress = False

    def __init__(self, given: Surroundings) -> None:
        self._given = given
        self._queues: dict[str, deque[Request]] = {}
        """By tenant."""
        self._served: dict[str, float] = {}
        """Tokens of each tenant that were served: the least served is next."""
        self._attempts: dict[Request, Attempt] = {}

    # --- what happens

    def offered(self, request: Request) -> None:
        """See `Policy`."""
        if not self._can_serve(request):
            after_s = _RETRY_AFTER_S * self._given.rng.uniform(0.8, 1.2)
            request.client.send_refusal(request, Refusal(429, after_s))
            return
        self._enqueue(request)
        self._pump()

    def left(self, request: Request) -> None:
        """See `Policy`."""
        if request in self._queues.get(request.ask.tenant, ()):
            self._queues[request.ask.tenant].remove(request)
        attempt = self._attempts.pop(request, None)
        if attempt is not None:
            self._given.cluster.abort(attempt)

    def listed(self, engine_ids: frozenset[str]) -> None:
        """See `Policy`."""
        self._given.loop.after(0.0, self._pump)

    def died(self, engine_id: str) -> None:
        """See `Policy`. It foresaw it: nothing of its own ran there."""

    def reported(self, status: EngineStatus) -> None:
        """See `Policy`."""

    def accepted(self, attempt: Attempt) -> None:
        """See `Policy`."""

    def rejected(self, attempt: Attempt) -> None:
        """See `Policy`."""
        self._again(attempt)

    def tokens(self, attempt: Attempt, first: int, count: int) -> None:
        """See `Policy`."""
        if self._attempts.get(attempt.request) is attempt:
            attempt.request.client.send_tokens(attempt.request, first, count)

    def finished(self, attempt: Attempt) -> None:
        """See `Policy`."""
        if self._attempts.get(attempt.request) is attempt:
            del self._attempts[attempt.request]
            attempt.request.client.send_end(attempt.request)
        self._pump()

    def failed(self, attempt: Attempt) -> None:
        """See `Policy`."""
        self._again(attempt)

    # --- decisions

    def _enqueue(self, request: Request) -> None:
        tenant = request.ask.tenant
        queue = self._queues.setdefault(tenant, deque())
        if not queue:  # who was away has not saved up
            active = [self._served[other] for other, waiting in self._queues.items() if waiting]
            self._served[tenant] = max(self._served.get(tenant, 0.0), min(active, default=0.0))
        queue.append(request)

    def _again(self, attempt: Attempt) -> None:
        del self._attempts[attempt.request]
        self._queues[attempt.request.ask.tenant].appendleft(attempt.request)
        self._pump()

    def _can_serve(self, request: Request) -> bool:
        """Whether its wait behind those queued is short enough; a sleeping model is woken and waited for."""
        usable = self._usable()
        engines = [replica.engine for replica in usable if isinstance(replica.engine, StepEngine)]
        if not engines:
            if not usable:
                self._given.cluster.wake()
            return True
        free_at: list[float] = []
        for engine in engines:
            step_s = engine.profile.full_step_s(PROMPT_TOKENS.mean, OUTPUT_TOKENS.mean)
            free_at += [0.0] * (engine.profile.max_running - engine.held)
            free_at += [remaining * step_s for remaining, _ in engine.remaining()]
        free_at.sort()
        competing = sum(1 for queue in self._queues.values() if queue)
        mine = self._queues.get(request.ask.tenant, ())
        place = len(mine) * max(competing, 1)
        if place >= len(free_at):
            return False
        ahead = sum(engine.prefill_backlog for engine in engines) + sum(waiting.ask.prompt_tokens for waiting in mine)
        prefill_s = ahead / len(engines) * engines[0].profile.busy_prefill_s_per_token
        return max(free_at[place], prefill_s) <= _WAIT_SHARE * self._given.objective.ttft_s

    def _pump(self) -> None:
        """Dispatch the next request, if a replica has room for it, and look again once the engine has it."""
        waiting = [tenant for tenant, queue in self._queues.items() if queue]
        if not waiting:
            return
        tenant = min(waiting, key=lambda each: self._served[each])
        request = self._queues[tenant][0]
        replica = self._choose(request)
        if replica is None:
            return
        self._queues[tenant].popleft()
        self._served[tenant] += request.ask.prompt_tokens + 2 * request.ask.output_tokens
        attempt = self._attempts[request] = Attempt(request, replica.engine_id, 1, 0)
        self._given.cluster.start(attempt)
        self._given.loop.after(0.0, self._pump)

    def _choose(self, request: Request) -> Replica | None:
        free = [replica for replica in self._usable() if self._has_room(replica, request)]
        return min(free, key=_busyness, default=None)

    def _usable(self) -> list[Replica]:
        now = self._given.loop.now
        alive = [replica for replica in self._given.cluster.replicas.values() if replica.alive]
        return [replica for replica in alive if replica.bad_from is None or now < replica.bad_from]

    def _has_room(self, replica: Replica, request: Request) -> bool:
        engine = replica.engine
        if isinstance(engine, CallEngine):
            return engine.held < engine.profile.parallel
        if engine.held >= engine.profile.max_running or engine.cold_calls:
            return False
        now = self._given.loop.now
        longest_s = request.ask.output_tokens * 2 * engine.profile.full_step_s(PROMPT_TOKENS.mean, OUTPUT_TOKENS.mean)
        trouble_at = min((at for at in (replica.doomed_at, replica.bad_from) if at is not None), default=None)
        if trouble_at is not None and now + longest_s + 1.0 >= trouble_at:
            return False
        return _peak_kv([*engine.remaining(), (request.ask.output_tokens, request.ask.prompt_tokens)]) <= (
            engine.profile.kv_capacity_tokens - engine.profile.max_running
        )


def _busyness(replica: Replica) -> tuple[int, int]:
    engine = replica.engine
    return (engine.prefill_backlog if isinstance(engine, StepEngine) else 0, engine.held)


def _peak_kv(jobs: list[tuple[int, int]]) -> int:
    """Most tokens that the KV cache will hold for jobs of (remaining, held) tokens that all grow at one pace."""
    jobs.sort()
    held = sum(tokens for _, tokens in jobs)
    peak = passed = 0
    for index, (remaining, tokens) in enumerate(jobs):
        held += (remaining - passed) * (len(jobs) - index)
        passed = remaining
        peak = max(peak, held)
        held -= tokens + remaining
    return peak
