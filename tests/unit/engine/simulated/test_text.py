from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.simulated.text import Detokenizer, StopStrings
from serve_app.engine.simulated.vocabulary import DRAWN, FORCED, OPEN_BYTES, decode, encode


def _shown(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.found is not None:
            return shown, matcher.found
    return shown + matcher.flush(), None


def test_stop_string_within_one_piece_ends_the_text_before_it() -> None:
    assert _shown(("END",), ["one END two"]) == ("one ", "END")


def test_stop_string_across_pieces_is_never_shown_in_part() -> None:
    matcher = StopStrings(("END",))
    assert matcher.push("one E") == "one "
    assert matcher.push("N") == ""
    assert matcher.push("D two") == ""
    assert matcher.found == "END"


def test_held_text_comes_out_when_it_turns_out_to_be_none() -> None:
    matcher = StopStrings(("END",))
    assert matcher.push("EN") == ""
    assert matcher.push("ENT") == "ENENT"
    assert matcher.found is None


def test_stop_string_that_overlaps_its_own_start_is_found() -> None:
    assert _shown(("aab",), ["a", "a", "a", "b"]) == ("a", "aab")


def test_stop_string_that_occurs_first_wins() -> None:
    assert _shown(("b", "a"), ["xaxb"]) == ("x", "a")


def test_held_text_is_flushed_once() -> None:
    matcher = StopStrings(("END",))
    matcher.push("E")
    assert matcher.flush() == "E"
    assert matcher.flush() == ""


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2), st.lists(st.text("ab", max_size=3)))
def test_pieces_show_what_the_whole_text_would(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    shown, found = _shown(tuple(stops), pieces)
    if found is None:
        assert shown == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(shown + found)
        assert not any(stop in shown for stop in stops)


def _chain(first: int) -> list[int]:
    ids = [first]
    while ids[-1] in FORCED:
        ids.append(FORCED[ids[-1]])
    return ids


@pytest.mark.parametrize("first", [token for token in DRAWN if token in FORCED])
def test_character_belongs_to_the_token_that_completes_it(first: int) -> None:
    ids = _chain(first)
    detokenizer = Detokenizer()
    assert [detokenizer.push(token) for token in ids] == [""] * (len(ids) - 1) + [decode(ids)]


@pytest.mark.parametrize("first", [token for token in DRAWN if token in FORCED])
def test_character_left_open_by_the_prompt_is_completed(first: int) -> None:
    ids = _chain(first)
    for cut in range(1, len(ids)):
        detokenizer = Detokenizer(OPEN_BYTES[ids[cut - 1]])
        assert "".join(detokenizer.push(token) for token in ids[cut:]) == decode(ids)


def test_bytes_that_are_no_character_become_the_replacement_character() -> None:
    detokenizer = Detokenizer()
    broken = next(token for token in DRAWN if token in FORCED)
    assert detokenizer.push(broken) + detokenizer.push(encode(" the")[0]) == "\ufffd the"
