"""What tests of retained streams do again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps

import pytest

from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.router.streams.kept_answer import AnswerReader
from serve_app.router.streams.running_stream import RunningStream
from tests.support.retained_world import KEY, World, read
from tests.support.virtual_loop import run_virtual


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run the test in virtual time."""

    @wraps(test)
    def run(**fixtures: object) -> None:
        run_virtual(test(**fixtures))  # type: ignore[arg-type]  # coroutine functions all

    return run


def tokens_of(events: list[StreamEvent]) -> int:
    return sum(event.count for event in events if isinstance(event, TokenDelta))


async def cut(reader: AnswerReader, tokens: int) -> list[StreamEvent]:
    """Read `tokens` tokens, and leave."""
    begun = await read(reader, tokens)
    assert tokens_of(begun) == tokens
    await reader.aclose()
    return begun


async def read_and_leave(reader: AnswerReader) -> list[StreamEvent]:
    events = await read(reader)
    await reader.aclose()
    return events


def total(world: World, name: str, **labels: str) -> float:
    return sum(router.sample(name, **labels) for router in world.routers.values())


def live(world: World) -> RunningStream:
    """The stream as its router runs it."""
    stream = world["r0"]._kept[KEY].live
    assert stream is not None
    return stream


async def error_of(reader: AnswerReader) -> Exception:
    with pytest.raises(Exception) as raised:  # whatever it is, it is looked at
        await read(reader)
    return raised.value
