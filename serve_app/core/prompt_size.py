"""How large a prompt is, and how many tokens it has at the least, without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serve_app.core.request import Prompt


def size_bytes(prompt: Prompt) -> int:
    """Bytes of the prompt's text in UTF-8; 0 when it is given as token ids."""
    if prompt.text is not None:
        return _bytes(prompt.text)
    return sum(_bytes(text) for message in prompt.messages or () for text in _texts(message))


def least_tokens(prompt: Prompt, max_token_bytes: int) -> int:
    """Tokens that the prompt certainly has, where no token has more than `max_token_bytes` bytes; 0: nothing is known.

    Of a conversation only what users say counts, trimmed: templates may leave out or shorten what others said.
    """
    if prompt.token_ids is not None:
        return len(prompt.token_ids)
    if max_token_bytes < 1:
        return 0
    return -(-sum(map(_bytes, certain_texts(prompt))) // max_token_bytes)


def certain_texts(prompt: Prompt) -> Iterator[str]:
    """The texts that are part of the rendered prompt whatever its template does."""
    if prompt.text is not None:
        yield prompt.text
    for message in prompt.messages or ():
        if message.get("role") == "user":
            yield from (text.strip() for text in _texts(message))


def _texts(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if isinstance(content, list | tuple):
        return [str(part.get("text", "")) for part in content if isinstance(part, dict)]
    return []


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
