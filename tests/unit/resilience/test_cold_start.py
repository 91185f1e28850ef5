"""The policies for retry and timeout, alone, against the cold start that the project is measured by.

100 inputs at two a second, four at once; a call takes 0.3 s, one in five 3 s longer, and one in ten fails at its end.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

from serve_app.resilience.retry import Backoff, RetryConfig
from serve_app.resilience.retry_budget import RetryBudget, RetryBudgetConfig
from serve_app.resilience.stream_timeouts import StreamTimeouts, StreamTimeoutsConfig

INPUTS = 100
INTERVAL_S = 0.5
SLOTS = 4
TOKENS = 100
SEEDS = 200


@dataclass
class Pooled:
    """What came of all inputs of all runs."""

    succeeded: int = 0
    calls: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def success(self) -> float:
        return self.succeeded / (INPUTS * SEEDS)

    @property
    def load(self) -> float:
        return self.calls / (INPUTS * SEEDS)

    @property
    def p99_s(self) -> float:
        return sorted(self.latencies_s)[int(0.99 * len(self.latencies_s))]


class Run:
    """One run in virtual time. Retries wait ahead of new inputs, for their pause and for the budget."""

    def __init__(self, seed: int, retry: RetryConfig, timeouts: StreamTimeoutsConfig, pooled: Pooled) -> None:
        self._rng = random.Random(seed)
        self._backoff = Backoff(retry)
        self._timeouts = StreamTimeouts(timeouts)
        self._budget = RetryBudget(RetryBudgetConfig())
        self._pooled = pooled
        self._agenda: list[tuple[float, int, str, int, int]] = []
        self._steps = 0
        self._new: deque[int] = deque()
        self._again: deque[tuple[int, int]] = deque()
        self._busy = 0

    def play(self) -> None:
        for item in range(INPUTS):
            self._plan(item * INTERVAL_S, "arrives", item, 0)
        while self._agenda:
            now, _, what, item, retry = heapq.heappop(self._agenda)
            if what == "arrives":
                self._new.append(item)
            elif what == "again":
                self._again.append((item, retry))
            else:
                self._call_ended(now, what == "succeeds", item, retry)
            self._start_calls(now)

    def _plan(self, at: float, what: str, item: int, retry: int) -> None:
        self._steps += 1
        heapq.heappush(self._agenda, (at, self._steps, what, item, retry))

    def _start_calls(self, now: float) -> None:
        while self._busy < SLOTS:
            if self._again and self._budget.try_take(TOKENS):
                item, retry = self._again.popleft()
            elif self._new:
                item, retry = self._new.popleft(), 0
            else:
                return
            self._busy += 1
            self._budget.in_flight(TOKENS)
            self._pooled.calls += 1
            takes_s = 3.3 if self._rng.random() < 0.2 else 0.3
            fails = self._rng.random() < 0.1
            timeout_s = self._timeouts.first_token_s(TOKENS, False, now)
            if takes_s > timeout_s:
                takes_s, fails = timeout_s, True
            else:
                self._timeouts.learn_first_token(takes_s, TOKENS, now)
            self._plan(now + takes_s, "fails" if fails else "succeeds", item, retry)

    def _call_ended(self, now: float, succeeded: bool, item: int, retry: int) -> None:
        self._busy -= 1
        self._budget.in_flight(-TOKENS)
        if retry:
            self._budget.give_back(TOKENS)
        if succeeded:
            self._pooled.succeeded += 1
            self._pooled.latencies_s.append(now - item * INTERVAL_S)
        elif self._backoff.may_retry(retry):
            self._plan(now + self._backoff.delay_s(retry, self._rng), "again", item, retry + 1)


def pooled(retry: RetryConfig, timeouts: StreamTimeoutsConfig) -> Pooled:
    result = Pooled()
    for seed in range(SEEDS):
        Run(seed, retry, timeouts, result).play()
    return result


def test_the_defaults_pass_the_cold_start() -> None:
    result = pooled(RetryConfig(), StreamTimeoutsConfig())
    assert result.success >= 0.998
    assert result.load <= 1.15
    assert result.p99_s <= 4.0


def test_a_fixed_timeout_of_two_seconds_with_two_retries_fails_it_as_published() -> None:
    # 1.8 s and the time that is allowed for the prompt, 0.2 s.
    fixed = StreamTimeoutsConfig(first_token_floor_s=1.8, first_token_ceiling_s=2.0)
    result = pooled(RetryConfig(max_retries=2, base_delay_s=0.05), fixed)
    assert 0.970 < result.success < 0.985
    assert 1.33 < result.load < 1.39
    assert result.p99_s > 4.0
