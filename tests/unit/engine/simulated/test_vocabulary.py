from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.simulated.vocabulary import (
    DRAWN,
    FORCED,
    OPEN_BYTES,
    PIECES,
    ROLE_TOKENS,
    TEXTS,
    VOCABULARY_SIZE,
    decode,
    encode,
    encode_in_slices,
)


@given(st.text())
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    assert decode(encode(text)) == text


def test_lone_surrogate_becomes_a_question_mark() -> None:
    assert decode(encode("a\ud800b")) == "a?b"


def test_known_words_are_one_token_each_and_unknown_ones_take_a_token_per_letter_pair() -> None:
    assert len(encode(" the model")) == 2
    assert len(encode("zyzzyva")) == 4


def test_control_tokens_have_no_text() -> None:
    assert decode([0, *ROLE_TOKENS.values()]) == ""


def test_every_drawn_token_leads_to_whole_characters() -> None:
    for token in DRAWN:
        ids = [token]
        while ids[-1] in FORCED:
            assert TEXTS[ids[-1]] is None
            assert OPEN_BYTES[ids[-1]] == b"".join(PIECES[piece] for piece in ids)
            ids.append(FORCED[ids[-1]])
        assert "\ufffd" not in decode(ids)
        assert decode(ids)


@pytest.mark.parametrize("pieces", [2, 3])
def test_some_characters_are_split_over_several_tokens(pieces: int) -> None:
    chains = []
    for token in DRAWN:
        ids = [token]
        while ids[-1] in FORCED:
            ids.append(FORCED[ids[-1]])
        chains.append(len(ids))
    assert pieces in chains


def test_all_ids_have_pieces_and_are_drawn_at_most_once() -> None:
    assert len(PIECES) == len(TEXTS) == VOCABULARY_SIZE
    assert len(set(DRAWN)) == len(DRAWN)
    assert len({PIECES[token] for token in DRAWN if token not in FORCED}) == len([t for t in DRAWN if t not in FORCED])


def test_long_words_are_encoded_in_bounded_pieces() -> None:
    parts = list(encode_in_slices("y" * 1_000_000 + "=" * 1_000_000))
    assert max(map(len, parts)) < 4096
    assert decode([token for part in parts for token in part]) == "y" * 1_000_000 + "=" * 1_000_000
