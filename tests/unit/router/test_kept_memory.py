"""What kept answers are counted as, beside what they really take."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta, TokenLogprob
from serve_app.core.request import Prompt
from serve_app.router.streams.kept_answer import KeptAnswer
from tests.support.retained_reading import read_and_leave, virtual
from tests.support.retained_world import World, request

WITHIN = 0.15


@contextmanager
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def answered(number: int, tokens: int, logprobs: int | None, prompt: str = "hi") -> KeptAnswer:
    """A kept answer as its router has it that read each token as it came."""
    kept = KeptAnswer(replace(request(tokens, f"{number:032x}"), prompt=Prompt(text=prompt)), 0.0)
    kept.take([Accepted(3, [1000, 1001, 1002])])
    for place in range(tokens):
        shown = None
        if logprobs is not None:
            top = tuple((f"alt{place} {rank}", -1.5 - rank - place / 7) for rank in range(logprobs))
            shown = [TokenLogprob(f"token {place}", -0.5 - place / 7, top)]
        kept.take([TokenDelta(0, place, 1, f"word{place} ", [300 + place], shown)])
    return kept


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("answers", "tokens", "logprobs", "prompt"),
    [(4, 2000, None, 2), (2, 2000, 5, 2), (20, 200, 0, 2), (200, 5, None, 2), (10, 20, None, 100_000)],
)
def test_what_is_counted_is_what_an_answer_takes(
    answers: int, tokens: int, logprobs: int | None, prompt: int, ended: bool
) -> None:
    with traced():
        before = held()
        kept = [answered(number, tokens, logprobs, "x" * prompt + str(number)) for number in range(answers)]
        for each in kept if ended else ():
            each.end(None, [Finished(0, FinishReason.LENGTH)])
        real = held() - before
        counted = sum(each.bytes for each in kept)

    assert abs(counted - real) <= WITHIN * real, (counted / answers, real / answers)


@pytest.mark.parametrize("text", ["word ", "\ud55c\uad6d\uc5b4 ", "\U0001f600"])
@pytest.mark.parametrize(("messages", "words"), [(1, 20_000), (200, 2)])
def test_a_prompt_is_counted_as_what_it_takes_in_any_script_and_in_many_messages(
    text: str, messages: int, words: int
) -> None:
    with traced():
        before = held()
        talks = [tuple({"role": "user", "content": text * words + str(n)} for n in range(messages)) for _ in range(5)]
        kept = [KeptAnswer(replace(request(1), prompt=Prompt(messages=talk)), 0.0) for talk in talks]
        real = held() - before
        counted = sum(each.bytes for each in kept)

    assert abs(counted - real) <= WITHIN * real, (counted / 5, real / 5)


@pytest.mark.parametrize(("answers", "tokens"), [(3, 2000), (200, 5)])
@virtual
async def test_what_a_router_counts_is_what_it_would_free(answers: int, tokens: int) -> None:
    async with World(routers=1, engines=1, keep_s=1e9) as world:
        router = world["r0"]
        with traced():
            for number in range(answers):
                await read_and_leave(router.open(request(tokens, f"{number + 1:032x}")))
            await asyncio.sleep(60.0)
            counted = router._ended.bytes
            assert len(router._kept) == answers
            for engine in world.engines.values():  # which holds the same parts
                engine.server._kept._held.clear()
            before = held()
            router._kept.clear()
            router._ended._ended.clear()
            real = before - held()

    assert abs(counted - real) <= WITHIN * real, (counted / answers, real / answers)


@virtual
async def test_an_ended_answer_keeps_nothing_of_what_ran() -> None:
    async with World(routers=1, engines=1, keep_s=1e9) as world:
        await read_and_leave(world["r0"].open(request(20)))
        (kept,) = world["r0"]._kept.values()
        assert kept.live is None
