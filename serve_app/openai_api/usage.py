"""Token counts of one answer, as OpenAI's `usage` object reports them."""

from __future__ import annotations

from typing import Any

from serve_app.core.events import Accepted, Finished


class Usage:
    """Counts over all prompts and choices of a request. `n` is the number of choices per prompt."""

    __slots__ = ("_cached", "_n", "completion_tokens", "prompt_tokens")

    def __init__(self, n: int) -> None:
        self._n = n
        self._cached: dict[int, int] = {}
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def accepted(self, event: Accepted) -> None:
        """Count a prompt: once, however many choices are drawn from it."""
        self.prompt_tokens += event.prompt_tokens

    def finished(self, event: Finished) -> None:
        """Note what the prefix cache gave, which all choices of a prompt report, and correct the counts."""
        prompt = event.choice // self._n
        self._cached[prompt] = max(event.cached_tokens, self._cached.get(prompt, 0))
        if event.correction is not None:
            self.prompt_tokens += event.correction.prompt_tokens
            self.completion_tokens += event.correction.completion_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that came from the prefix cache."""
        return sum(self._cached.values())

    @property
    def total_tokens(self) -> int:
        """Those of the prompts and of the output."""
        return self.prompt_tokens + self.completion_tokens

    def document(self) -> dict[str, Any]:
        """The `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
