"""Renders prompts to token ids with a model's own tokenizer and chat template, long ones off the event loop."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Mapping
from typing import Any, Protocol

from serve_app.core.errors import InvalidRequest, prompt_too_long
from serve_app.core.interfaces import Clock
from serve_app.core.request import RESERVED_TEMPLATE_ARGUMENTS, Prompt
from serve_app.engine.context_window import check_length
from serve_app.engine.vllm.developer_role import as_system_messages, knows_developer
from serve_app.engine.vllm.render_line import RenderLine

INLINE_CHARS = 4096
"""Prompts up to this long are rendered at once: in about a millisecond, less than a thread hop costs a busy loop."""


LONG_CHARS = 65_536
"""Longer prompts are rendered in a thread of their own, where only others as long wait for them."""

_UNLIKELY_CHARS_PER_TOKEN = 8
"""A prompt that needs more to fit is counted piece by piece first, and given up once it is clearly too long."""
_MESSAGE_CHARS = 16
"""A message costs about as much as so many characters, even when it is empty."""
_PIECE_CHARS = 65_536
_CLEARLY = 1.1
"""Pieces cut tokens apart, so that their count is not exact."""
_PIECE_TOKENS = 16


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def encode(self, text: str, /) -> list[int]:
        """Token ids of `text`, with the special tokens that the model wants around a text."""

    def apply_chat_template(self, messages: list[dict[str, Any]], /, **options: Any) -> Any:
        """The conversation as token ids, or as text with `tokenize=False`."""


class _Lane:
    """A thread that renders, and its tokenizer: one is not safe to use from two threads at once."""

    def __init__(self, name: str, tokenizer: Tokenizer, clock: Clock) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self.line = RenderLine(f"{name}-prompts", clock)


class PromptRenderer:
    """Safe to call concurrently on one event loop; `close` it to end its threads.

    Short prompts are rendered at once, others in two threads: those of a page in one, those of a book in the other. In
    each, shorter ones go first. Who is cancelled leaves the line; what has begun runs to its end, which `max_model_len`
    bounds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str | None = None,
        inline_chars: int = INLINE_CHARS,
        max_model_len: int = 0,
        max_token_bytes: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        """`max_model_len` (tokens) and `max_token_bytes` bound what is rendered; 0: no bound is known."""
        self._tokenizer = tokenizer
        self._medium = _Lane("medium", tokenizer, clock)
        self._long = _Lane("long", tokenizer, clock)
        self._max_model_len = max_model_len
        self._max_token_bytes = max_token_bytes
        self._options = {} if chat_template is None else {"chat_template": chat_template}
        template = getattr(tokenizer, "chat_template", None) if chat_template is None else chat_template
        self._knows_developer = knows_developer(template)
        self._inline_chars = inline_chars

    async def render(self, prompt: Prompt) -> list[int]:
        """Token ids of `prompt`.

        Raises `InvalidRequest` naming `messages`, `prompt` or `chat_template_kwargs` when it cannot be rendered, or is
        empty, and `ContextLengthExceeded` when it is seen to be too long before it is rendered.
        """
        if self._max_model_len:
            check_length(prompt, self._max_token_bytes, self._max_model_len)
        if prompt.token_ids is not None:
            ids = list(prompt.token_ids)
        elif (length := _length(prompt)) <= self._inline_chars:
            ids = self._render(prompt, self._tokenizer)
        else:
            lane = self._medium if length <= LONG_CHARS else self._long
            ids = await lane.line.run(length, functools.partial(self._render_long, prompt, length, lane.tokenizer))
        if not ids:
            raise InvalidRequest("The prompt must not be empty.", "prompt" if prompt.messages is None else "messages")
        return ids

    def close(self) -> None:
        """End the threads once they are done. Idempotent."""
        for lane in (self._medium, self._long):
            lane.line.close()

    def _render_long(self, prompt: Prompt, length: int, tokenizer: Tokenizer) -> list[int]:
        if 0 < self._max_model_len * _UNLIKELY_CHARS_PER_TOKEN < length:
            text = prompt.text if prompt.messages is None else self._apply(prompt, prompt.messages, tokenizer, False)
            if isinstance(text, str):  # a tokenizer that is none of Hugging Face's may have no text in between
                self._check_text(text, tokenizer, "prompt" if prompt.messages is None else "messages")
        return self._render(prompt, tokenizer)

    def _check_text(self, text: str, tokenizer: Tokenizer, param: str) -> None:
        """Raise when the text is clearly too long, after as much work as for one that just fits."""
        limit = self._max_model_len
        if 0 < self._max_token_bytes * limit <= len(text):  # a character is a byte or more
            raise prompt_too_long(limit, f"at least {len(text) // self._max_token_bytes}", param)
        count = 0
        for begin in range(0, len(text), _PIECE_CHARS):
            piece = text[begin : begin + _PIECE_CHARS].encode(errors="replace").decode()
            count += max(0, len(tokenizer.encode(piece)) - _PIECE_TOKENS)
            if count > limit * _CLEARLY:
                raise prompt_too_long(limit, f"more than {limit}", param)

    def _render(self, prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
        if prompt.messages is not None:
            return list(self._apply(prompt, prompt.messages, tokenizer, True))
        return list(tokenizer.encode(_valid_text(prompt.text or "", "prompt"))) if prompt.text else []

    def _apply(self, prompt: Prompt, messages: tuple[dict[str, Any], ...], tokenizer: Tokenizer, tokenize: bool) -> Any:
        """The conversation by the model's template: token ids, or its text unless `tokenize`."""
        if not messages:
            raise InvalidRequest("There must be at least one message.", "messages")
        reserved = RESERVED_TEMPLATE_ARGUMENTS & prompt.chat_template_kwargs.keys()
        if reserved:
            raise InvalidRequest(f"{sorted(reserved)[0]} is no variable of a chat template.", "chat_template_kwargs")
        conversation = [_plain_message(position, message) for position, message in enumerate(messages)]
        if not self._knows_developer:
            conversation = as_system_messages(conversation)
        try:
            return tokenizer.apply_chat_template(
                conversation,
                tokenize=tokenize,
                return_dict=False,
                add_generation_prompt=prompt.add_generation_prompt and not prompt.continue_final_message,
                continue_final_message=prompt.continue_final_message,
                **self._options,
                **prompt.chat_template_kwargs,
            )
        except Exception as error:  # a template is a program: what it raises on messages that it refuses is open
            raise InvalidRequest(f"The model's chat template refuses the messages: {error}", "messages") from error


def _plain_message(position: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """`message` with text parts joined to one text, which every template understands."""
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequest(f"Message {position} has no role.", f"messages.{position}.role")
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = "\n".join(_part_text(position, part) for part in content)
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest("Content must be text or a list of text parts.", f"messages.{position}.content")
    elif content is None and role != "assistant":
        raise InvalidRequest(f"Message {position} has no content.", f"messages.{position}.content")
    return {**message, "content": _valid_text(content or "", f"messages.{position}.content")}


def _part_text(position: int, part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(text := part.get("text"), str):
        return text
    raise InvalidRequest("Only text parts are supported in content.", f"messages.{position}.content")


def _valid_text(text: str, param: str) -> str:
    """`text` when it is Unicode: JSON can smuggle in half a surrogate pair, on which a tokenizer would fail."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("The text holds a lone surrogate, which is no character.", param) from error
    return text


def _length(prompt: Prompt) -> int:
    """About the number of characters to render: a template may write out any field of a message, and its variables."""
    if prompt.messages is None:
        return len(prompt.text or "")
    return _MESSAGE_CHARS * len(prompt.messages) + _chars([prompt.messages, prompt.chat_template_kwargs])


def _chars(value: object) -> int:
    """Characters of all texts in `value`, however deep they are."""
    count = 0
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
        else:
            count += 1
    return count
