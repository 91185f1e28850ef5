"""Log-probabilities in the two shapes that OpenAI gives them: per token for chat, in columns for completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from serve_app.core.events import TokenLogprob

_LOWEST = -9999.0
"""JSON knows no minus infinity; OpenAI and vLLM write this instead."""


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` object of a chat choice or chunk."""
    return {
        "content": [
            {
                **_alternative(item.token, item.logprob),
                "top_logprobs": [_alternative(token, logprob) for token, logprob in item.top],
            }
            for item in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Iterable[TokenLogprob], first_offset: int) -> tuple[dict[str, Any], int]:
    """The `logprobs` object of a completion choice or chunk, and the text offset (characters) after it.

    `first_offset` is the offset of the first token within the choice's text.
    """
    columns: dict[str, Any] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    offset = first_offset
    for item in tokens:
        columns["text_offset"].append(offset)
        columns["tokens"].append(item.token)
        columns["token_logprobs"].append(_finite(item.logprob))
        # The drawn token is always among them, so there may be one more than was asked for.
        columns["top_logprobs"].append(
            {token: _finite(logprob) for token, logprob in (*item.top, (item.token, item.logprob))}
        )
        offset += len(item.token)
    return columns, offset


def _alternative(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": _finite(logprob), "bytes": list(token.encode())}


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
