"""What a generation produces: typed events, from which every wire format is written at the edge.

A stream is `Accepted`, then any number of `TokenDelta`, one `Finished` per choice; or `Failed` at any point, last.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FinishReason(enum.StrEnum):
    """Why a choice ended; the values are OpenAI's `finish_reason`."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(slots=True)
class TokenLogprob:
    """Log-probability of one drawn token, with those of the most likely alternatives, most likely first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Accepted:
    """The engine took the request; `prompt_token_ids` is the prompt exactly as it is computed."""

    prompt_token_ids: list[int]


@dataclass(slots=True)
class TokenDelta:
    """New tokens of one choice.

    `index` is the position of the first of `token_ids` within the choice's output. `text` is what these tokens
    completed: it may be empty (a character or a stop string is still open), and never splits a character.
    """

    choice: int
    index: int
    token_ids: list[int]
    text: str
    logprobs: list[TokenLogprob] | None = None


@dataclass(slots=True)
class Finished:
    """One choice ended. `stop_reason` is the stop string or stop token id that ended it, if one did."""

    choice: int
    reason: FinishReason
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""


@dataclass(slots=True)
class Failed:
    """The whole stream ended in an error; `code` names a class of `serve_app.core.errors`."""

    code: str
    message: str
    param: str | None = None
    """The request field at fault, for an `InvalidRequest`."""


StreamEvent = Accepted | TokenDelta | Finished | Failed
