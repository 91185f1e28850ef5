"""A stream that waits for its turn, and what it is expected to cost."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.request import Priority

OUTPUT_WEIGHT = 2.0
"""An output token costs as much as two input tokens (the paper's and most price lists' ratio)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One stream that waits. Token counts are estimates."""

    stream_id: int
    tenant: str
    priority: Priority
    prompt_tokens: int
    expected_output_tokens: int
    offered_at: float
    """Clock reading in seconds."""

    @property
    def cost(self) -> float:
        """Weighted tokens charged to the tenant when it is dispatched."""
        return self.prompt_tokens + OUTPUT_WEIGHT * self.expected_output_tokens

    @property
    def work(self) -> int:
        """Prompt and expected output tokens."""
        return self.prompt_tokens + self.expected_output_tokens
