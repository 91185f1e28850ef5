"""Whether a failed attempt is tried again, and after what pause."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.core.interfaces import Rng
from serve_app.resilience.retry_budget import RetryBudgetConfig

_MAX_EXPONENT = 30


class RetryConfig(BaseModel):
    """`args.router.retry`: retries of one stream before its first token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_retries: int = Field(default=4, ge=0)
    """Retries of one stream. With one call in ten failing, four retries leave one stream in 100,000 without an answer;
    what they cost is bounded by the retry budget, not by this."""
    base_delay_s: float = Field(default=0.025, ge=0)
    """Seconds, the upper end of the first pause; it doubles with each retry. Short, because another replica is tried:
    the pause only has to break up herds, and every millisecond is seen by a client that waits for its first token."""
    max_delay_s: float = Field(default=2.0, ge=0)
    """Seconds, the longest pause; a `Retry-After` may ask for more."""
    budget: RetryBudgetConfig = RetryBudgetConfig()
    """What all streams together may repeat."""


class Backoff:
    """Exponential backoff with full jitter. Pure; safe to share.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: a pause drawn from the whole of
    0..min(cap, base × 2^retry) ends contention with the least work.
    """

    def __init__(self, config: RetryConfig) -> None:
        self._config = config

    def may_retry(self, retries: int) -> bool:
        """Whether a stream that was retried `retries` times may be retried once more."""
        return retries < self._config.max_retries

    def delay_s(self, retry: int, rng: Rng, retry_after_s: float | None = None) -> float:
        """Seconds to wait before retry number `retry`, counted from 0.

        `retry_after_s` is what the refusing side asked for: a lower bound, to which the jittered pause is added, since
        all that were refused heard the same.
        """
        longest = min(self._config.max_delay_s, self._config.base_delay_s * 2.0 ** min(retry, _MAX_EXPONENT))
        return max(retry_after_s or 0.0, 0.0) + rng.uniform(0.0, longest)
