"""Estimates prompt tokens from bytes, learning the ratio from what engines count: the router loads no tokenizer."""

from __future__ import annotations

from typing import Any

from serve_app.core.request import Prompt

_FIRST_GUESS_BYTES_PER_TOKEN = 4.0
_WEIGHT = 0.05
_TOKENS_PER_MESSAGE = 4


class TokenEstimate:
    """Bytes per token of one model, as an exponentially weighted mean. Single-threaded."""

    def __init__(self) -> None:
        self._bytes_per_token = _FIRST_GUESS_BYTES_PER_TOKEN

    def tokens(self, prompt: Prompt) -> int:
        """Estimated tokens of `prompt`, at least 1; exact when it is given as token ids."""
        if prompt.token_ids is not None:
            return max(1, len(prompt.token_ids))
        return max(1, round(_size_bytes(prompt) / self._bytes_per_token) + _overhead(prompt))

    def learn(self, prompt: Prompt, tokens: int) -> None:
        """An engine counted `tokens` for `prompt`."""
        size = _size_bytes(prompt)
        counted = tokens - _overhead(prompt)
        if prompt.token_ids is None and size > 0 and counted > 0:
            self._bytes_per_token += _WEIGHT * (size / counted - self._bytes_per_token)


def _overhead(prompt: Prompt) -> int:
    return _TOKENS_PER_MESSAGE * len(prompt.messages) if prompt.messages is not None else 0


def _size_bytes(prompt: Prompt) -> int:
    if prompt.text is not None:
        return len(prompt.text.encode())
    return sum(_content_bytes(message.get("content")) for message in prompt.messages or ())


def _content_bytes(content: Any) -> int:
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, list):
        return sum(len(str(part.get("text", "")).encode()) for part in content if isinstance(part, dict))
    return 0
