"""Estimates prompt tokens from bytes, learning from what engines count: the router loads no tokenizer."""

from __future__ import annotations

from serve_app.core.prompt_size import size_bytes
from serve_app.core.request import Prompt
from serve_app.resilience.size_regression import SizeRegression

_TOKENS_PER_MESSAGE = 4


class TokenEstimate:
    """Prompt tokens of one model. Single-threaded.

    estimate = TokenEstimate()
    estimate.learn(prompt, 32, "tenant")
    estimate.tokens(prompt, "tenant")  # 32
    """

    def __init__(self) -> None:
        self._sizes = SizeRegression()

    def tokens(self, prompt: Prompt, tenant: str) -> int:
        """Estimated tokens of `prompt`, at least 1; exact when it is given as token ids."""
        if prompt.token_ids is not None:
            return max(1, len(prompt.token_ids))
        return max(1, round(self._sizes.line(tenant).tokens(size_bytes(prompt))) + _overhead(prompt))

    def learn(self, prompt: Prompt, tokens: int, tenant: str) -> None:
        """An engine counted `tokens` for `prompt`."""
        counted = tokens - _overhead(prompt)
        if prompt.token_ids is None and counted > 0:
            self._sizes.learn(tenant, size_bytes(prompt), counted)


def _overhead(prompt: Prompt) -> int:
    return _TOKENS_PER_MESSAGE * len(prompt.messages) if prompt.messages is not None else 0
