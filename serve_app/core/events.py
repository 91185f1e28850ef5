"""What a generation produces: typed events, from which every wire format is written at the edge.

A stream is `Accepted`, then any number of `TokenDelta`, one `Finished` per choice; or `Failed` at any point, last.

Positions and counts are numbers of their own, since an engine may know no token ids: an external API streams text. Such
an engine counts each piece of text as one token, and corrects that in `Finished` if it is told better.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FinishReason(enum.StrEnum):
    """Why a choice ended; the values are OpenAI's `finish_reason`."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(slots=True)
class TokenLogprob:
    """Log-probability of one drawn token, with those of the most likely alternatives, most likely first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Accepted:
    """The engine took the request.

    `prompt_token_ids` is the prompt exactly as it is computed; None where the engine does not know it.
    """

    prompt_tokens: int
    """Tokens of the prompt; an estimate where the engine cannot count them."""
    prompt_token_ids: list[int] | None = None


@dataclass(slots=True)
class ContentPart:
    """Text of the answer itself."""

    text: str


@dataclass(slots=True)
class ReasoningPart:
    """Text that the model thinks with before it answers."""

    text: str


@dataclass(slots=True)
class ToolCallPart:
    """A piece of a tool call: `ToolCallPart(0, '{"in":', "call_1", "weather")`, then `ToolCallPart(0, '"Oslo"}')`.

    The first piece of a call has `call_id` and `name`; `arguments` of all its pieces, joined, are JSON.
    """

    index: int
    """Number of the call within the choice, from 0."""
    arguments: str
    call_id: str | None = None
    name: str | None = None


OutputPart = ContentPart | ReasoningPart | ToolCallPart


@dataclass(slots=True)
class TokenDelta:
    """New tokens of one choice: `TokenDelta(0, 4, 1, " you", [345])` is the fifth token of the first choice.

    `text` is what these tokens completed: it may be empty (a character or a stop string is still open), and never
    splits a character.
    """

    choice: int
    index: int
    """Tokens of the choice's output before these."""
    count: int
    """How many tokens these are. 0 only in the last delta of a choice, for text that was held back before."""
    text: str
    token_ids: list[int] | None = None
    """As many as `count`; None where the engine does not know them."""
    logprobs: list[TokenLogprob] | None = None
    parts: list[OutputPart] | None = None
    """What `text` means, where the engine tells reasoning and tool calls apart; None: all of it is content."""

    @property
    def end(self) -> int:
        """Tokens of the choice's output with these."""
        return self.index + self.count

    @property
    def position(self) -> int:
        """Where a reader stands who has these: `end`, or one more for text that came without a token.

        Without that step, nobody could tell a reader who has the text from one who lacks it.
        """
        return self.index + (self.count or 1)

    def rest(self, position: int) -> TokenDelta:
        """What a reader at `position`, before the end of these, lacks.

        Text and parts stay whole: they belong to the last token.
        """
        seen = position - self.index
        if seen <= 0:
            return self
        token_ids = None if self.token_ids is None else self.token_ids[seen:]
        logprobs = None if self.logprobs is None else self.logprobs[seen:]
        return TokenDelta(self.choice, position, self.count - seen, self.text, token_ids, logprobs, self.parts)


@dataclass(slots=True)
class UsageCorrection:
    """What to add to the counts of the events, where the engine learns the true ones at the end only.

    An external API streamed 7 pieces and then reports 9 tokens: `UsageCorrection(completion_tokens=2)`.
    """

    prompt_tokens: int = 0
    """Set for one choice of a prompt only."""
    completion_tokens: int = 0


@dataclass(slots=True)
class Finished:
    """One choice ended. `stop_reason` is the stop string or stop token id that ended it, if one did."""

    choice: int
    reason: FinishReason
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""
    correction: UsageCorrection | None = None


@dataclass(slots=True)
class Failed:
    """The whole stream ended in an error; `code` names a class of `serve_app.core.errors`."""

    code: str
    message: str
    param: str | None = None
    """The request field at fault, for an `InvalidRequest`."""
    retry_after_s: float | None = None
    """Seconds after which the engine asks to be tried again, if it says so."""


StreamEvent = Accepted | TokenDelta | Finished | Failed
