"""Turns a prompt into token ids, as a tokenizer with its chat template does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Prompt
from serve_app.engine.simulated.vocabulary import END, ROLE_TOKENS, VOCABULARY_SIZE, encode


def render(prompt: Prompt) -> list[int]:
    """Token ids of `prompt`. Raises `InvalidRequest` naming `messages` or `prompt` when it cannot be rendered."""
    if prompt.messages is not None:
        return _render_chat(prompt, prompt.messages)
    ids = encode(prompt.text) if prompt.text is not None else list(prompt.token_ids or ())
    if not ids:
        raise InvalidRequest("The prompt must not be empty.", "prompt")
    if any(not 0 <= token < VOCABULARY_SIZE for token in ids):
        raise InvalidRequest(f"Token ids must be between 0 and {VOCABULARY_SIZE - 1}.", "prompt")
    return ids


def _render_chat(prompt: Prompt, messages: tuple[dict[str, Any], ...]) -> list[int]:
    if not messages:
        raise InvalidRequest("There must be at least one message.", "messages")
    ids: list[int] = []
    for position, message in enumerate(messages):
        role = message.get("role")
        token = ROLE_TOKENS.get(role) if isinstance(role, str) else None
        if token is None:
            raise InvalidRequest(
                f"Message {position} has the role {role!r}; allowed are {', '.join(ROLE_TOKENS)}.", "messages"
            )
        ids.append(token)
        ids.extend(encode(_content_text(position, message)))
        ids.append(END)
    if prompt.continue_final_message:
        ids.pop()
    elif prompt.add_generation_prompt:
        ids.append(ROLE_TOKENS["assistant"])
    return ids


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
