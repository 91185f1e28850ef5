"""An answer told in few events: to whoever wants the whole and not its steps, they mean the same as all of them."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.core.events import Accepted, ContentPart, OutputPart, ReasoningPart, StreamEvent, TokenDelta

UNTYPED, CONTENT, REASONING = range(3)
"""What the whole text of a delta is."""


def kind_of(delta: TokenDelta) -> int | None:
    """One of `UNTYPED`, `CONTENT` and `REASONING`; None for a delta of several parts, or of tool calls."""
    if delta.parts is None:
        return UNTYPED
    part = delta.parts[0] if len(delta.parts) == 1 else None
    if not isinstance(part, ContentPart | ReasoningPart) or part.text != delta.text:
        return None
    return CONTENT if isinstance(part, ContentPart) else REASONING


def parts_of(kind: int, text: str) -> list[OutputPart] | None:
    """The parts of a delta of that kind."""
    if kind == UNTYPED:
        return None
    return [ContentPart(text) if kind == CONTENT else ReasoningPart(text)]


def texts_in(event: StreamEvent) -> int:
    """How many pieces of content an event brings."""
    if not isinstance(event, TokenDelta):
        return 0
    if event.parts is None:
        return bool(event.text)
    return sum(isinstance(part, ContentPart) and bool(part.text) for part in event.parts)


def joined(events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """`events` of one choice in brief: deltas of one kind that follow each other are one, without token ids and
    log-probabilities, and `Accepted` is without the prompt's."""
    brief: list[StreamEvent] = []
    run: list[TokenDelta] = []

    def end_run() -> None:
        if run:
            text, count = "".join(delta.text for delta in run), sum(delta.count for delta in run)
            parts = parts_of(kind_of(run[0]) or UNTYPED, text)
            brief.append(TokenDelta(run[0].choice, run[0].index, count, text, parts=parts))
            run.clear()

    for event in events:
        if isinstance(event, TokenDelta) and kind_of(event) is not None:
            if run and (kind_of(run[0]), run[0].choice) != (kind_of(event), event.choice):
                end_run()
            run.append(event)
            continue
        end_run()
        brief.append(Accepted(event.prompt_tokens) if isinstance(event, Accepted) else event)
    end_run()
    return brief
