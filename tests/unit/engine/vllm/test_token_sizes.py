"""How much text one token may cover, by a tokenizer's description."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.engine.vllm.token_sizes import longest_described

BYTE_LEVEL: dict[str, Any] = {
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]},
    "model": {"type": "BPE", "vocab": {"a": 0, "\u0120\u0120\u0120\u0120": 1}},
    "added_tokens": [{"content": "<s>"}],
}
SENTENCE_PIECE: dict[str, Any] = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    },
    "pre_tokenizer": None,
    "model": {"type": "Unigram", "byte_fallback": True, "vocab": [["\u2581the", -1.0], ["a", -2.0]]},
}


def test_each_character_of_a_byte_level_vocabulary_is_a_byte() -> None:
    assert longest_described(BYTE_LEVEL) == 4


def test_an_added_token_may_be_the_longest() -> None:
    assert longest_described(BYTE_LEVEL | {"added_tokens": [{"content": "<|start|>"}]}) == 9


def test_other_vocabularies_are_bounded_by_their_own_bytes() -> None:
    assert longest_described(SENTENCE_PIECE) == 6


def test_composing_characters_shortens_text() -> None:
    assert longest_described(BYTE_LEVEL | {"normalizer": {"type": "NFC"}}) == 12


SPLIT = {"type": "Split", "behavior": "Removed"}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Strip"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "  "}, "content": " "}},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [SPLIT, {"type": "ByteLevel"}],
            }
        },
        {"pre_tokenizer": None},
        {"model": {"type": "WordPiece", "vocab": {"a": 0}}},
        {"added_tokens": [{"content": "<mask>", "lstrip": True}]},
    ],
)
def test_where_text_may_be_lost_there_is_no_bound(change: dict[str, Any]) -> None:
    assert longest_described(BYTE_LEVEL | change) == 0
