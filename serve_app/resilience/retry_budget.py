"""How much work may be done a second time: keeps retries and replays from becoming the overload."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RetryBudgetConfig(BaseModel):
    """`args.router.retry.budget`: one budget for all retries and replays of a model in one router."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.2, ge=0, le=1)
    """Part of the tokens in flight that may be repeated work: at 0.2 a failing pool carries at most a quarter more than
    its first attempts."""
    min_retries: int = Field(default=3, ge=0)
    """Repeated attempts that may always run at once, whatever their size: of little in flight, a share would allow
    none."""


class RetryBudget:
    """Counts tokens in flight and those of them that are repeated. Pure and single-threaded.

    Sources: Envoy's `RetryBudget` circuit breaker (20 % of the active requests, at least 3), which bounds retries that
    run at once rather than their rate, so nothing is saved up in calm times as in the token buckets of Finagle's
    `RetryBudget` and gRPC's A6 throttling. It is counted in tokens because the repeats of long prompts hurt most.
    """

    def __init__(self, config: RetryBudgetConfig) -> None:
        self._config = config
        self._in_flight = 0
        self._repeated: int = 0
        self._repeats = 0

    def in_flight(self, tokens_delta: int) -> None:
        """Work in flight grew or shrank by so many tokens, repeated work included."""
        self._in_flight += tokens_delta
        assert self._in_flight >= 0, "more work ended than began"

    def try_take(self, tokens: int) -> bool:
        """Reserve a repeat of `tokens` tokens (prompt and expected output); False when it must wait.

        Call it before the repeat itself is counted in flight. Each success is followed by one `give_back`.
        """
        if self._repeats >= self._config.min_retries and self._repeated + tokens > self._allowed:
            return False
        self._repeats += 1
        self._repeated += tokens
        return True

    def give_back(self, tokens: int) -> None:
        """A repeat ended; `tokens` is what was taken for it."""
        self._repeats -= 1
        self._repeated -= tokens
        assert self._repeats >= 0, "given back what was not taken"
        assert self._repeated >= 0, "given back more tokens than were taken"

    @property
    def left(self) -> float:
        """Tokens that may still be taken by share; 0 while only the minimum of retries keeps the way open."""
        return max(self._allowed - self._repeated, 0.0)

    @property
    def repeated(self) -> int:
        """Tokens of repeated work in flight."""
        return self._repeated

    @property
    def _allowed(self) -> float:
        return self._config.share * self._in_flight
