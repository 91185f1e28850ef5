"""The body of a chat request, from what a caller gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

Prompt = str | Sequence[Mapping[str, Any]]
"""A user's message, or OpenAI chat messages."""


class AskOptions(TypedDict, total=False):
    """What may be said with a prompt; what is left out is the server's default."""

    model: str | None
    """None: the first model that the server names."""
    system: str | None
    """A system message put before the others."""
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    priority: str | None
    """`interactive`, `default` or `batch`."""
    deadline_s: float | None
    """Seconds from now after which the answer is of no use: sent as `X-Deadline-Ms`, and kept here too."""
    extra: Mapping[str, Any] | None
    """Further parameters of the request's body."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request, before its model is known."""

    body: Mapping[str, Any]
    model: str | None
    priority: str | None
    deadline_s: float | None

    def encoded(self, model: str) -> bytes:
        """The body as it is sent, the same at each attempt."""
        return json.dumps({"model": model, **self.body}, ensure_ascii=False, separators=(",", ":")).encode()


def chat_request(
    prompt: Prompt,
    *,
    model: str | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    priority: str | None = None,
    deadline_s: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> ChatRequest:
    """A streaming request with its usage. The parameters are those of `AskOptions`."""
    messages: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "stop": stop}
    body: dict[str, Any] = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: value for name, value in sampling.items() if value is not None}
    return ChatRequest({**body, **(extra or {})}, model, priority, deadline_s)
