"""A whole answer, collected from its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_app.core.events import Finished, StreamEvent, TokenLogprob, ToolCallPart
from serve_app.openai_api.event_reader import EventReader


@dataclass(slots=True)
class ToolCall:
    """One call of a tool, as far as it has come."""

    call_id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """JSON, once it has ended."""
        return "".join(self.pieces)


@dataclass(slots=True)
class CollectedChoice:
    """One choice, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finished: Finished | None = None

    @property
    def text(self) -> str:
        """Its content."""
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        """What the model thought."""
        return "".join(self.reasonings)


class CollectedAnswer(EventReader):
    """Holds all that came: `CollectedAnswer(1, 1, events).first.text`. Used by one task."""

    __slots__ = ("choices",)

    def __init__(self, choices: int = 1, n: int = 1, events: Iterable[StreamEvent] = ()) -> None:
        super().__init__(choices, n)
        self.choices = [CollectedChoice() for _ in range(choices)]
        self.read(events)

    @property
    def first(self) -> CollectedChoice:
        """The first choice, often the only one."""
        return self.choices[0]

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        collected = self.choices[choice]
        collected.texts.append(text)
        if logprobs is not None:
            collected.logprobs = (collected.logprobs or []) + logprobs

    def on_reasoning(self, choice: int, text: str) -> None:
        """See `EventReader`."""
        self.choices[choice].reasonings.append(text)

    def on_tool_call(self, choice: int, part: ToolCallPart) -> None:
        """See `EventReader`."""
        calls = self.choices[choice].tool_calls
        if part.index >= len(calls):
            calls.append(ToolCall(part.call_id or "", part.name or ""))
        calls[part.index].pieces.append(part.arguments)

    def on_finished(self, event: Finished) -> None:
        """See `EventReader`."""
        self.choices[event.choice].finished = event
