"""Estimates prompt tokens from bytes, learning from what engines count: the router loads no tokenizer."""

from __future__ import annotations

from typing import Any

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


def size_bytes(prompt: Prompt) -> int:
    """Bytes of the prompt's text in UTF-8; 0 when it is given as token ids."""
    if prompt.text is not None:
        return _bytes(prompt.text)
    return sum(_content_bytes(message.get("content")) for message in prompt.messages or ())


def _overhead(prompt: Prompt) -> int:
    return _TOKENS_PER_MESSAGE * len(prompt.messages) if prompt.messages is not None else 0


def _content_bytes(content: Any) -> int:
    if isinstance(content, str):
        return _bytes(content)
    if isinstance(content, list):
        return sum(_bytes(str(part.get("text", ""))) for part in content if isinstance(part, dict))
    return 0


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
