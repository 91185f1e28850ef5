"""Reads the events of one answer: the one place that knows what they mean for whoever shows it to a client.

A wire format is a subclass that says what it writes of each. Example:

    class TextWriter(EventReader):
        def on_content(self, choice, text, logprobs):
            print(text, end="")
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.core.events import (
    Accepted,
    ContentPart,
    Finished,
    ReasoningPart,
    StreamEvent,
    TokenDelta,
    TokenLogprob,
    ToolCallPart,
)
from serve_app.openai_api.usage import Usage


class EventReader:
    """Keeps what is common to all formats, and calls a hook for each thing to be shown. Used by one task.

    A format that knows text only overrides `on_content`: reasoning and tool calls are then left out.
    """

    __slots__ = ("_unfinished", "accepted", "begun", "position", "usage")

    def __init__(self, choices: int = 1, n: int = 1, seen: int = 0) -> None:
        """An answer of `choices` choices, `n` for each prompt, of which the client has `seen` tokens already."""
        self.accepted = False
        """Whether an engine has taken the request."""
        self.begun = False
        """Whether a token or an end has come, after which errors can only be told within the answer."""
        self.position = seen
        """Where a reader stands who has all so far, in an answer of one choice: see `TokenDelta.position`."""
        self.usage = Usage(n)
        self.usage.completion_tokens = seen
        self._unfinished = choices

    @property
    def complete(self) -> bool:
        """Whether every choice has ended."""
        return self._unfinished == 0

    def read(self, events: Iterable[StreamEvent]) -> None:
        """Take events in the order in which the stream gives them. `Failed` never comes: streams raise it."""
        for event in events:
            if isinstance(event, TokenDelta):
                if not self.begun:
                    self._begin()
                self.usage.completion_tokens += event.count
                self.position = event.position
                self.on_delta(event)
            elif isinstance(event, Finished):
                if not self.begun:
                    self._begin()
                self.usage.finished(event)
                self._unfinished -= 1
                self.on_finished(event)
            elif isinstance(event, Accepted):
                self.accepted = True
                self.usage.accepted(event)
                self.on_accepted()

    def _begin(self) -> None:
        self.on_begin()
        self.begun = True

    # --- what a format writes

    def on_accepted(self) -> None:
        """An engine has taken the request, or one prompt of it."""

    def on_begin(self) -> None:
        """The first token or end follows."""

    def on_delta(self, event: TokenDelta) -> None:
        """New tokens of one choice: by default, each part of them goes to its own hook."""
        if event.parts is None:
            self.on_content(event.choice, event.text, event.logprobs)
            return
        logprobs = event.logprobs
        for part in event.parts:
            if isinstance(part, ContentPart):
                self.on_content(event.choice, part.text, logprobs)
                logprobs = None
            elif isinstance(part, ReasoningPart):
                self.on_reasoning(event.choice, part.text)
            else:
                self.on_tool_call(event.choice, part)
        if logprobs is not None:  # of tokens that are no content
            self.on_content(event.choice, "", logprobs)

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """Text of the answer; it may be empty."""

    def on_reasoning(self, choice: int, text: str) -> None:
        """Text that the model thinks with."""

    def on_tool_call(self, choice: int, part: ToolCallPart) -> None:
        """A piece of one tool call."""

    def on_finished(self, event: Finished) -> None:
        """One choice has ended."""
