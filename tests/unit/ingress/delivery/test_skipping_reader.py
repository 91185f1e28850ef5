from __future__ import annotations

import pytest

from serve_app.core.errors import InvalidRequest
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta, TokenLogprob
from serve_app.core.request import GenerationRequest, Prompt
from serve_app.ingress.delivery.skipping_reader import SkippingReader
from tests.support.fake_router import FakeClock, FakeStream, Script, Silence

ACCEPTED = Accepted(2, [1, 2])
END = Finished(0, FinishReason.STOP)


def stream(script: Script) -> FakeStream:
    return FakeStream(GenerationRequest("r", "m", Prompt(text="x")), script, FakeClock())


def token(index: int, text: str, count: int = 1) -> TokenDelta:
    return TokenDelta(0, index, len(range(index, index + count)), text, list(range(index, index + count)))


async def all_of(reader: SkippingReader) -> list[StreamEvent]:
    found: list[StreamEvent] = []
    while (events := await reader.next()) is not None:
        found += events
    return found


async def test_the_first_tokens_are_left_out_and_all_else_is_kept() -> None:
    script: Script = [[ACCEPTED], [token(0, "a"), token(1, "b")], [token(2, "c")], [END]]
    for skipped in range(4):
        rest = await all_of(SkippingReader(stream(script), skipped))
        assert rest == [ACCEPTED, *[token(0, "a"), token(1, "b"), token(2, "c")][skipped:], END]


async def test_a_delta_that_ends_later_comes_with_its_later_tokens_and_its_whole_text() -> None:
    logprobs = [TokenLogprob(name, -1.0) for name in "xyz"]
    script: Script = [[TokenDelta(0, 1, 3, "é", [1, 2, 3], logprobs)], [END]]
    rest = await all_of(SkippingReader(stream(script), 2))
    assert rest == [TokenDelta(0, 2, 2, "é", [2, 3], logprobs[1:]), END]
    assert await all_of(SkippingReader(stream(script), 4)) == [END]


async def test_what_is_skipped_does_not_wake_the_reader() -> None:
    reader = SkippingReader(stream([[token(0, "a")], [token(1, "b")], [token(2, "c")]]), 2)
    assert await reader.next(10.0) == [token(2, "c")]


async def test_silence_is_told_while_tokens_are_skipped() -> None:
    reader = SkippingReader(stream([[token(0, "a")], Silence(), [token(1, "b")], [END]]), 1)
    assert await reader.next(10.0) == ()
    assert await reader.next(10.0) == [token(1, "b")]


async def test_skipping_lasts_no_longer_than_the_reader_waits() -> None:
    reader = SkippingReader(stream([[token(index, "a")] for index in range(100)]), 90)
    assert await reader.next(0.0) == ()


async def test_an_offset_beyond_the_end_is_refused_but_for_what_is_spared() -> None:
    script: Script = [[token(0, "a")], [END]]
    assert await all_of(SkippingReader(stream(script), 2, spare=1)) == [END]
    for reader in (SkippingReader(stream(script), 2), SkippingReader(stream(script), 3, spare=1)):
        with pytest.raises(InvalidRequest) as refused:
            await all_of(reader)
        assert refused.value.param == "offset"


async def test_closing_and_the_place_in_the_queue_are_the_streams_own() -> None:
    inner = stream([Silence(place=7)])
    reader = SkippingReader(inner, 3)
    assert await reader.next(1.0) == ()
    assert reader.queue_position == 7
    await reader.aclose()
    assert inner.closed
