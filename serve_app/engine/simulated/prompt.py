"""Turns a prompt into token ids, as a tokenizer with its chat template does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.core.errors import InvalidRequest, prompt_too_long
from serve_app.core.request import Prompt
from serve_app.engine.simulated.vocabulary import (
    END,
    MAX_PIECE_BYTES,
    ROLE_TOKENS,
    VOCABULARY_SIZE,
    encode_in_slices,
)

_TURN_TOKENS = 2048
"""Tokens after which other tasks get a turn: about a millisecond of work."""


def render(prompt: Prompt) -> list[int]:
    """Token ids of `prompt`. Raises `InvalidRequest` naming `messages` or `prompt` when it cannot be rendered."""
    return [token for part in _slices(prompt) for token in part]


async def render_beside_others(prompt: Prompt, max_model_len: int) -> list[int]:
    """As `render`, but other tasks get turns while a long prompt is rendered; a short one is rendered at once.

    Raises `ContextLengthExceeded` when a text is seen to be too long before it is rendered, and when what was rendered
    until a turn is.
    """
    ids: list[int] = []
    turn_at = _TURN_TOKENS
    for part in _slices(prompt, max_model_len):
        if len(ids) >= turn_at:
            if len(ids) >= max_model_len:
                raise prompt_too_long(max_model_len, f"more than {max_model_len}", _param(prompt))
            await asyncio.sleep(0)
            turn_at = len(ids) + _TURN_TOKENS
        ids.extend(part)
    return ids


def _slices(prompt: Prompt, max_model_len: int | None = None) -> Iterator[list[int]]:
    """The ids in short lists. Texts that cannot fit `max_model_len` tokens raise `ContextLengthExceeded`."""
    if prompt.messages is not None:
        yield from _chat_slices(prompt, prompt.messages, max_model_len)
    elif prompt.text:
        yield from _text_slices(prompt, prompt.text, max_model_len)
    elif not prompt.token_ids:
        raise InvalidRequest("The prompt must not be empty.", "prompt")
    elif any(not 0 <= token < VOCABULARY_SIZE for token in prompt.token_ids):
        raise InvalidRequest(f"Token ids must be between 0 and {VOCABULARY_SIZE - 1}.", "prompt")
    else:
        yield list(prompt.token_ids)


def _chat_slices(
    prompt: Prompt, messages: tuple[dict[str, Any], ...], max_model_len: int | None
) -> Iterator[list[int]]:
    if not messages:
        raise InvalidRequest("There must be at least one message.", "messages")
    for position, message in enumerate(messages):
        role = message.get("role")
        token = ROLE_TOKENS.get(role) if isinstance(role, str) else None
        if token is None:
            raise InvalidRequest(
                f"Message {position} has the role {role!r}; allowed are {', '.join(ROLE_TOKENS)}.", "messages"
            )
        yield [token]
        yield from _text_slices(prompt, _content_text(position, message), max_model_len)
        if position + 1 < len(messages) or not prompt.continue_final_message:
            yield [END]
    if prompt.add_generation_prompt and not prompt.continue_final_message:
        yield [ROLE_TOKENS["assistant"]]


def _text_slices(prompt: Prompt, text: str, max_model_len: int | None) -> Iterator[list[int]]:
    if max_model_len is not None and len(text) >= max_model_len * MAX_PIECE_BYTES:  # a character is a byte or more
        raise prompt_too_long(max_model_len, f"at least {len(text) // MAX_PIECE_BYTES}", _param(prompt))
    return encode_in_slices(text)


def _param(prompt: Prompt) -> str:
    return "prompt" if prompt.messages is None else "messages"


def _content_text(position: int, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message.get("role") == "assistant":
        return ""
    if isinstance(content, list | tuple):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    raise InvalidRequest(f"The content of message {position} must be text or a list of text parts.", "messages")
