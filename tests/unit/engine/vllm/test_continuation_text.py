from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import NotContinuable
from serve_app.engine.vllm.continuation_text import PRIME_SLICE_TOKENS, ContinuedText
from tests.unit.engine.vllm.byte_detokenizer import ByteDetokenizer

TEXT = "Ein Café in 서울 🙂!"
BYTES = TEXT.encode()


async def _primed(ids: tuple[int, ...], sent: str, *stops: str, ended: bool = False) -> ContinuedText:
    text = ContinuedText(ByteDetokenizer(*stops))
    await text.prime(ids, sent, ended)
    return text


@pytest.mark.parametrize("cut", range(len(BYTES) + 1))
async def test_character_that_was_open_comes_out_whole(cut: int) -> None:
    sent = BYTES[:cut].decode(errors="ignore")
    text = await _primed(tuple(BYTES[:cut]), sent)
    assert sent + "".join(text.push([byte], False, False)[1] for byte in BYTES[cut:]) == TEXT


async def test_text_that_was_held_back_comes_with_the_first_token() -> None:
    text = await _primed(tuple(b"abcd"), "ab", "dex")
    assert text.push(b"!", False, False) == (1, "c")
    assert text.push(b"?", False, True) == (1, "d!?")


async def test_stop_string_that_began_before_the_cut_ends_the_text() -> None:
    text = await _primed(tuple(b"abcd"), "ab", "cdef")
    assert text.push(b"e", False, False) == (1, "")
    assert text.push(b"fgh", False, False) == (1, "")
    assert text.stop == "cdef"


async def test_text_before_a_stop_string_comes_out_with_it() -> None:
    text = await _primed(tuple(b"abcd"), "a", "defghi")
    assert text.push(b"efghi", False, False) == (5, "bc")


async def test_stop_string_that_was_complete_is_known_after_priming() -> None:
    text = await _primed(tuple(b"abcd"), "ab", "cd")
    assert text.stop == "cd"
    assert text.rest(finished=True) == ""


async def test_end_lets_out_what_was_held_back() -> None:
    text = await _primed(tuple(b"abcd"), "ab", "dex")
    assert text.rest(finished=True) == "cd"


async def test_text_that_the_end_had_let_out_is_not_told_again() -> None:
    text = await _primed(tuple(b"abcd"), "abcd", "dex")
    assert text.rest(finished=True) == ""


@pytest.mark.parametrize("ended", [True, False])
async def test_token_that_ends_the_output_has_no_text(ended: bool) -> None:
    text = await _primed(tuple(b"ab"), "a", ended=ended)
    assert text.rest(finished=True) == ("" if ended else "b")
    assert (await _primed((), "")).push(b"ab", ended, True) == (2, "a" if ended else "ab")


@pytest.mark.parametrize("sent", ["ax", "abcde"])
async def test_other_text_than_was_sent_is_refused(sent: str) -> None:
    with pytest.raises(NotContinuable):
        await _primed(tuple(b"abcd"), sent)


async def test_long_output_is_repeated_in_slices_between_which_others_run() -> None:
    ran: list[int] = []

    async def other() -> None:
        for number in range(5):
            ran.append(number)
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await _primed(tuple(b"a" * (PRIME_SLICE_TOKENS * 3)), "aa")
    assert len(ran) == 2
    await task


async def test_last_token_ended_the_output_only_in_the_last_slice() -> None:
    text = await _primed(tuple(b"a" * (PRIME_SLICE_TOKENS + 1)), "", ended=True)
    assert text.rest(finished=True) == "a" * PRIME_SLICE_TOKENS
