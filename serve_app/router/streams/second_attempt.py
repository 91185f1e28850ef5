"""The second of two concurrent attempts of a stream, on the router side: what came of it until one of them has won."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serve_app.core.events import StreamEvent


@dataclass(slots=True, eq=False)
class SecondAttempt:
    """Made by the dispatch; gone when it is withdrawn, has won, or the stream has ended."""

    number: int
    engine_id: str
    group: str = ""
    """Deployment of that replica."""
    call: asyncio.Task[None] | None = None
    """The engine call, which lasts as long as the generation."""
    prompt_tokens: int = 0
    """What is wasted if it does not win; 0 until its engine took it."""
    events: list[tuple[int, StreamEvent]] = field(default_factory=list)
    """Its events and their numbers, as they came. They are few: its first token decides."""

    def cancel(self) -> None:
        """End the engine call, unless it is the present task's."""
        if self.call is not None and self.call is not asyncio.current_task():
            self.call.cancel()
