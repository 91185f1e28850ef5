"""How patient the client is: timeouts, and how often and how fast it tries again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.resilience.retry import RetryConfig
from serve_app.resilience.retry_budget import RetryBudgetConfig


class ClientConfig(BaseModel):
    """Settings of one client; all its streams share one retry budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds for one attempt to connect. A router that is gone is noticed at once; this is for packets that vanish."""
    first_token_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds from sending a request until its first token, waiting in the server's queue included. Then the connection
    is given up and made anew; the place in the queue is kept. A cold model may take longer than one attempt."""
    stall_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds without a further token after which the connection is given up and the answer resumed. Longer than the
    server takes to move a stream away from a stuck engine, which is 5 s for most."""
    longest_retry_after_s: float = Field(default=60.0, ge=0)
    """Seconds that the server may ask to wait; when it asks for more, the error is raised at once."""
    retry: RetryConfig = RetryConfig(
        max_retries=6, base_delay_s=0.25, max_delay_s=8.0, budget=RetryBudgetConfig(share=0.2, min_retries=3)
    )
    """Attempts without a new token before an answer is given up: with these values for 8 s on average, longer than a
    replica needs to be replaced. A token that arrives begins the count anew. The budget counts requests: it bounds how
    many may be sent a second time at once; resuming is not bounded by it, since nothing is computed twice."""
