"""Whether and when an answer is asked for once more."""

from __future__ import annotations

import random

from serve_app.client.config import ClientConfig
from serve_app.client.errors import ClientError, ServerError
from serve_app.resilience.retry import Backoff
from serve_app.resilience.retry_budget import RetryBudget

_ONE_REQUEST = 1
"""The budget's unit here: the client does not know a prompt's tokens."""


class Retries:
    """Attempts of one answer. Pure; used by one reader; `close` it after `start`.

    A repeat that the server may have to compute anew takes a place in the budget that all answers of the client share,
    until the server has answered. When there is none it waits on, which counts as an attempt.
    """

    def __init__(self, config: ClientConfig, budget: RetryBudget, rng: random.Random) -> None:
        self._config = config
        self._budget = budget
        self._backoff = Backoff(config.retry)
        self._rng = rng
        self._deadline_at: float | None = None
        self._fruitless = 0
        self._not_before: float | None = None
        self._error: ClientError | None = None
        self._costly = False
        self._holds_place = False
        self._open = False

    def start(self, deadline_at: float | None = None) -> None:
        """The first attempt begins. No retry is begun at or after `deadline_at`."""
        self._deadline_at = deadline_at
        self._open = True
        self._budget.in_flight(_ONE_REQUEST)

    def failed(self, error: ClientError, costly: bool, now: float) -> None:
        """An attempt failed. Raises `error` when there is to be no other; otherwise `pause_s` tells when.

        `costly`: the next attempt may compute again what was computed before.
        """
        self._give_back()
        self._error = error
        self._costly = costly
        self._schedule(error, now)

    def refused(self, error: ClientError, now: float) -> None:
        """The server said no. Raises `error` when trying again cannot help, otherwise as `failed`."""
        if not (isinstance(error, ServerError) and error.should_retry):
            raise error
        self.failed(error, True, now)

    def pause_s(self, now: float) -> float:
        """Seconds to wait before the next attempt, 0 when it may begin; ask again after the wait.

        Raises the last error when the budget has had no place up to the last retry.
        """
        if self._not_before is None or self._error is None:
            return 0.0
        if now < self._not_before:
            return self._not_before - now
        if self._costly and not self._holds_place:
            if not self._budget.try_take(_ONE_REQUEST):
                self._schedule(self._error, now)
                return self._not_before - now
            self._holds_place = True
        self._not_before = None
        return 0.0

    def answered(self) -> None:
        """The server took the request: it is no repeat any more."""
        self._give_back()

    def progressed(self) -> None:
        """Something new arrived: the count of fruitless attempts begins anew."""
        self._fruitless = 0

    def close(self) -> None:
        """Give everything back. Idempotent."""
        if self._open:
            self._open = False
            self._give_back()
            self._budget.in_flight(-_ONE_REQUEST)

    def _schedule(self, error: ClientError, now: float) -> None:
        asked_s = error.retry_after_s
        if not self._backoff.may_retry(self._fruitless) or (asked_s or 0.0) > self._config.longest_retry_after_s:
            raise error
        at = now + self._backoff.delay_s(self._fruitless, self._rng, asked_s)
        if self._deadline_at is not None and at >= self._deadline_at:
            raise error
        self._fruitless += 1
        self._not_before = at

    def _give_back(self) -> None:
        if self._holds_place:
            self._holds_place = False
            self._budget.give_back(_ONE_REQUEST)
