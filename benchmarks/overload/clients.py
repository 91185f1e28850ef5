"""Clients that retry exactly as the OpenAI Python SDK does, and note what they receive.

Source: `openai/_base_client.py` and `_constants.py` of openai-python 3.54: `max_retries` 2; a refusal is retried after
its `Retry-After` when that is above 0 and at most 120 s, otherwise after 0.5 × 2^n s, at most 8 s, less up to a quarter
at random; above 120 s it is not retried at all; `x-should-retry` overrides; 408, 409, 429 and 5xx are retried, timeouts
and connection errors too; a stream that breaks after its first byte is not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from benchmarks.overload.event_loop import EventLoop, Timer
from benchmarks.overload.jobs import Ask, Request

MAX_RETRIES = 2
INITIAL_RETRY_DELAY_S = 0.5
MAX_RETRY_DELAY_S = 8.0
MAX_RETRY_AFTER_S = 120.0


@dataclass(frozen=True)
class Refusal:
    """An HTTP error before the first token."""

    status: int
    retry_after_s: float | None = None
    should_retry: bool | None = None
    """The `x-should-retry` header, if any."""


def retry_delay_s(refusal: Refusal | None, retries_taken: int, max_retries: int, rng: random.Random) -> float | None:
    """Seconds that the SDK waits before it tries again; None when it gives up. No refusal means a timeout."""
    retry_after = refusal.retry_after_s if refusal is not None else None
    if retries_taken >= max_retries or (retry_after is not None and retry_after > MAX_RETRY_AFTER_S):
        return None
    if refusal is not None:
        retried = refusal.status in (408, 409, 429) or refusal.status >= 500
        if not (retried if refusal.should_retry is None else refusal.should_retry):
            return None
    if retry_after is not None and retry_after > 0:
        return retry_after
    return min(INITIAL_RETRY_DELAY_S * 2.0**retries_taken, MAX_RETRY_DELAY_S) * (1 - 0.25 * rng.random())


class Server(Protocol):
    """What stands at the other end of a request."""

    def offered(self, request: Request) -> None:
        """A request arrives."""

    def left(self, request: Request) -> None:
        """Its client hung up."""


class Client:
    """All users of a run. What arrives here has crossed the network between router and client."""

    def __init__(
        self,
        loop: EventLoop,
        server: Server,
        rng: random.Random,
        network_s: tuple[float, float] = (0.0, 0.0),
        max_retries: int = MAX_RETRIES,
        patience_s: float | None = None,
    ) -> None:
        """`network_s` bounds the one-way delay of a request, drawn for each. `patience_s` is the client's own timeout
        for the first token; None waits."""
        self._loop = loop
        self._server = server
        self._rng = rng
        self._network_s = network_s
        self._max_retries = max_retries
        self._patience_s = patience_s
        self._timers: dict[Request, Timer] = {}

    def ask(self, ask: Ask) -> None:
        """A user begins to want something."""
        request = Request(ask, self, self._loop.now, self._rng.uniform(*self._network_s))
        ask.requests.append(request)
        self._loop.after(request.delay_s, self._server.offered, request)
        if self._patience_s is not None:
            self._timers[request] = self._loop.after(self._patience_s, self._timed_out, request)

    # --- called by the policy, at the router

    def send_tokens(self, request: Request, first: int, count: int) -> None:
        """The router sends tokens number `first` and following of the answer."""
        self._loop.after(request.delay_s, self._tokens, request, first, count)

    def send_end(self, request: Request) -> None:
        """The router says that the answer is complete."""
        self._loop.after(request.delay_s, self._ended, request)

    def send_refusal(self, request: Request, refusal: Refusal) -> None:
        """The router answers with an error, or ends the stream with one."""
        self._loop.after(request.delay_s, self._refused, request, refusal)

    # --- at the client

    def _tokens(self, request: Request, first: int, count: int) -> None:
        if request.ended_at is not None:
            return
        if request.first_token_at is None:
            request.first_token_at = self._loop.now
            self._forget_timer(request)
        request.lost += max(0, first - request.received)
        request.repeated += max(0, min(request.received, first + count) - first)
        request.received = max(request.received, first + count)

    def _ended(self, request: Request) -> None:
        if request.ended_at is not None:
            return
        request.ended_at = self._loop.now
        request.completed = True
        request.lost += request.ask.output_tokens - request.received
        request.ask.completed_at = self._loop.now

    def _refused(self, request: Request, refusal: Refusal) -> None:
        if request.ended_at is not None:
            return
        request.ended_at = self._loop.now
        if request.first_token_at is not None:
            request.status = 200
            request.lost += request.ask.output_tokens - request.received
            return
        request.status = refusal.status
        self._forget_timer(request)
        self._retry(request, refusal)

    def _timed_out(self, request: Request) -> None:
        del self._timers[request]
        request.ended_at = self._loop.now
        request.status = 408
        self._loop.after(request.delay_s, self._server.left, request)
        self._retry(request, None)

    def _retry(self, request: Request, refusal: Refusal | None) -> None:
        delay_s = retry_delay_s(refusal, len(request.ask.requests) - 1, self._max_retries, self._rng)
        if delay_s is not None:
            self._loop.after(delay_s, self.ask, request.ask)

    def _forget_timer(self, request: Request) -> None:
        if (timer := self._timers.pop(request, None)) is not None:
            timer.cancel()
