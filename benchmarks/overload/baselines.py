"""What others put in front of their engines: no control, Ray Serve's limits, fixed limits, plain retries, Gradient2.

All of them cancel at the engine what its client gave up, as vLLM and Serve do, and end a stream whose replica dies.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from benchmarks.overload.clients import Refusal
from benchmarks.overload.event_loop import Timer
from benchmarks.overload.gradient2 import Gradient2
from benchmarks.overload.jobs import Attempt, Request
from benchmarks.overload.policy import Surroundings
from serve_app.core.engine_status import EngineStatus


@dataclass(slots=True, eq=False)
class Flight:
    """One request inside the baseline router."""

    request: Request
    attempt: Attempt | None = None
    tries: int = 0
    sent: int = 0
    dispatched_at: float = 0.0
    in_flight_then: int = 0
    timer: Timer | None = None


class Baseline:
    """Sends every request to a random replica at once; the engine's own queue takes them all: no control.

    Subclasses override `choose` (which replica, None: nobody now) and what is done then.
    """

    omniscient = False
    wants_progress = False

    def __init__(self, given: Surroundings) -> None:
        self.given = given
        self.engines: dict[str, int] = {}
        """Attempts in flight, by replica in use."""
        self._flights: dict[Request, Flight] = {}
        self._waiting: deque[Flight] = deque()

    # --- decisions

    def choose(self, avoid: str | None) -> str | None:
        """The replica for the next attempt."""
        usable = [engine for engine in self.engines if engine != avoid] or list(self.engines)
        return self.given.rng.choice(usable) if usable else None

    def queue_limit(self) -> int:
        """Requests that may wait when nobody is chosen."""
        return 0

    def first_token_timeout_s(self) -> float | None:
        """Seconds after which an attempt without a token is given up and tried elsewhere."""
        return None

    def may_retry(self, flight: Flight) -> bool:
        """Whether to try again."""
        return False

    # --- what happens

    def offered(self, request: Request) -> None:
        """See `Policy`."""
        flight = self._flights[request] = Flight(request)
        if not self.engines:
            self.given.cluster.wake()
        if self._waiting or not self._dispatch(flight, None):
            if len(self._waiting) < self.queue_limit():
                self._waiting.append(flight)
            else:
                self._refuse(flight, Refusal(429 if self.engines else 503))

    def left(self, request: Request) -> None:
        """See `Policy`."""
        flight = self._flights.pop(request, None)
        if flight is None:
            return
        if flight in self._waiting:
            self._waiting.remove(flight)
        self._give_up(flight)
        self._dispatch_waiting()

    def listed(self, engine_ids: frozenset[str]) -> None:
        """See `Policy`."""
        self.engines = {engine: self.engines.get(engine, 0) for engine in sorted(engine_ids)}
        self._dispatch_waiting()

    def died(self, engine_id: str) -> None:
        """See `Policy`."""
        self.engines.pop(engine_id, None)
        for flight in list(self._flights.values()):
            if flight.attempt is not None and flight.attempt.engine_id == engine_id:
                self._broken(flight, Refusal(503))
        self._dispatch_waiting()

    def reported(self, status: EngineStatus) -> None:
        """See `Policy`."""

    def accepted(self, attempt: Attempt) -> None:
        """See `Policy`."""

    def rejected(self, attempt: Attempt) -> None:
        """See `Policy`."""
        flight = self._current(attempt)
        if flight is not None:
            self._broken(flight, Refusal(503))

    def tokens(self, attempt: Attempt, first: int, count: int) -> None:
        """See `Policy`."""
        flight = self._current(attempt)
        if flight is not None:
            flight.sent += count
            self._forget_timer(flight)
            attempt.request.client.send_tokens(attempt.request, first, count)

    def finished(self, attempt: Attempt) -> None:
        """See `Policy`."""
        flight = self._current(attempt)
        if flight is not None:
            self._land(flight)
            del self._flights[flight.request]
            flight.request.client.send_end(flight.request)
            self._dispatch_waiting()

    def failed(self, attempt: Attempt) -> None:
        """See `Policy`."""
        flight = self._current(attempt)
        if flight is not None:
            self._broken(flight, Refusal(500))

    # --- what is done

    def _dispatch(self, flight: Flight, avoid: str | None) -> bool:
        engine_id = self.choose(avoid)
        if engine_id is None:
            return False
        flight.tries += 1
        flight.attempt = Attempt(flight.request, engine_id, flight.tries, flight.sent)
        flight.dispatched_at = self.given.loop.now
        self.engines[engine_id] += 1
        flight.in_flight_then = self.engines[engine_id]
        timeout_s = self.first_token_timeout_s()
        if timeout_s is not None:
            flight.timer = self.given.loop.after(timeout_s, self._timed_out, flight, flight.attempt)
        self.given.cluster.start(flight.attempt)
        return True

    def _dispatch_waiting(self) -> None:
        while self._waiting and self._dispatch(self._waiting[0], None):
            self._waiting.popleft()

    def _timed_out(self, flight: Flight, attempt: Attempt) -> None:
        if flight.attempt is attempt and flight.request in self._flights:
            self.given.cluster.abort(attempt)
            self._broken(flight, Refusal(504))

    def _broken(self, flight: Flight, refusal: Refusal) -> None:
        """The present attempt came to nothing."""
        assert flight.attempt is not None
        engine_id = flight.attempt.engine_id
        self._land(flight)
        if not flight.sent and self.may_retry(flight) and self._dispatch(flight, engine_id):
            return
        self._refuse(flight, refusal)
        self._dispatch_waiting()

    def _give_up(self, flight: Flight) -> None:
        if flight.attempt is not None:
            self.given.cluster.abort(flight.attempt)
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        assert flight.attempt is not None
        if flight.attempt.engine_id in self.engines:
            self.engines[flight.attempt.engine_id] -= 1
        flight.attempt = None
        self._forget_timer(flight)

    def _refuse(self, flight: Flight, refusal: Refusal) -> None:
        del self._flights[flight.request]
        flight.request.client.send_refusal(flight.request, refusal)

    def _current(self, attempt: Attempt) -> Flight | None:
        flight = self._flights.get(attempt.request)
        return flight if flight is not None and flight.attempt is attempt else None

    def _forget_timer(self, flight: Flight) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None


class RetryingBaseline(Baseline):
    """No control, and 2 immediate retries elsewhere after an error or 2 s without a token. No budget.

    The timeout and the number of retries are those of the project's source document.
    """

    def first_token_timeout_s(self) -> float | None:
        """See `Baseline`."""
        return 2.0

    def may_retry(self, flight: Flight) -> bool:
        """See `Baseline`."""
        return flight.tries <= 2


class LimitedBaseline(Baseline):
    """At most `limit` attempts in flight per replica, the less loaded of two random replicas, a bounded queue.

    This is Ray Serve's handle: power of two choices on queue lengths, `max_ongoing_requests` per replica and
    `max_queued_requests` per handle (-1: no bound), beyond which it raises BackPressureError, a plain 503.
    """

    def __init__(self, given: Surroundings, limit: int, queue: int) -> None:
        super().__init__(given)
        self._limit = limit
        self._queue = queue

    def choose(self, avoid: str | None) -> str | None:
        """See `Baseline`."""
        free = [engine for engine, in_flight in self.engines.items() if in_flight < self._limit]
        if len(free) > 1:
            free = self.given.rng.sample(free, 2)
        return min(free, key=lambda engine: self.engines[engine], default=None)

    def queue_limit(self) -> int:
        """See `Baseline`."""
        return self._queue


class Gradient2Baseline(Baseline):
    """A Gradient2 limit per replica, fed with the latency of whole requests; without room a request is refused."""

    def __init__(self, given: Surroundings) -> None:
        super().__init__(given)
        self._limits: dict[str, Gradient2] = {}

    def choose(self, avoid: str | None) -> str | None:
        """See `Baseline`."""
        free = [engine for engine, in_flight in self.engines.items() if in_flight < self._limit(engine).limit]
        return min(free, key=lambda engine: self.engines[engine], default=None)

    def finished(self, attempt: Attempt) -> None:
        """See `Policy`."""
        flight = self._current(attempt)
        if flight is not None:
            latency_s = self.given.loop.now - flight.dispatched_at
            self._limit(attempt.engine_id).sampled(latency_s, flight.in_flight_then)
        super().finished(attempt)

    def _limit(self, engine_id: str) -> Gradient2:
        return self._limits.setdefault(engine_id, Gradient2())
