"""Runs generations in tests and looks at what they emitted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serve_app.core.events import Accepted, Finished, StreamEvent, TokenDelta
from serve_app.core.interfaces import Engine
from serve_app.core.request import GenerationRequest, Prompt, Sampling

_numbers = itertools.count(1)


def known(token_ids: list[int] | None) -> list[int]:
    """The ids, of an engine that tells them."""
    assert token_ids is not None
    return token_ids


class Recording:
    """An `Emit` that keeps all events of one generation, in order."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: StreamEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[Recording], bool]) -> None:
        """Wait until `condition` holds; it is looked at after each event."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    @property
    def accepted(self) -> Accepted:
        """The `Accepted` event; fails when the first event is another."""
        assert isinstance(self.events[0], Accepted), self.events[0]
        return self.events[0]

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt as it was computed; fails when the engine does not tell it."""
        return known(self.accepted.prompt_token_ids)

    def deltas(self, choice: int = 0) -> list[TokenDelta]:
        """All `TokenDelta` of one choice."""
        return [event for event in self.events if isinstance(event, TokenDelta) and event.choice == choice]

    def finished(self, choice: int = 0) -> Finished:
        """The one `Finished` of a choice; fails when there are none or several."""
        ends = [event for event in self.events if isinstance(event, Finished) and event.choice == choice]
        assert len(ends) == 1, ends
        return ends[0]

    def text(self, choice: int = 0) -> str:
        """The text deltas of one choice, joined."""
        return "".join(delta.text for delta in self.deltas(choice))

    def token_ids(self, choice: int = 0) -> list[int]:
        """All output token ids of one choice."""
        return [token for delta in self.deltas(choice) for token in known(delta.token_ids)]


def request(prompt: Prompt | str, sampling: Sampling | None = None, model: str = "model") -> GenerationRequest:
    """A request with a fresh id; a string stands for one chat message of the user."""
    if isinstance(prompt, str):
        prompt = Prompt(messages=({"role": "user", "content": prompt},))
    return GenerationRequest(f"test-{next(_numbers)}", model, prompt, sampling or Sampling())


async def collect(engine: Engine, generation: GenerationRequest) -> Recording:
    """Run `generation` to its end and return everything that it emitted."""
    recording = Recording()
    await engine.generate(generation, recording)
    return recording


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[Engine]:
    """Start `engine`, and close it at the end: twice, since `close` is idempotent."""
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()
        await engine.close()
