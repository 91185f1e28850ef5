"""What a stream gives its reader, and what an answer is when it is whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer, usually one token; `print(token, end="")` writes its text.

    The last one of a stream has no text, but `finish_reason` and `usage`.
    """

    text: str
    position: int | None = None
    """Output tokens whose text has arrived with this one; None when the server does not number them."""
    finish_reason: str | None = None
    """`stop` or `length`, on the last one."""
    usage: Usage | None = None
    """On the last one; None when the server did not tell."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `str(answer)` is its text."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    model: str
    ttft_s: float | None
    """Seconds from asking until the first text; None when there was none."""
    duration_s: float
    """Seconds from asking until the end."""
    reconnects: int
    """How often the connection was made anew."""

    def __str__(self) -> str:
        return self.text
