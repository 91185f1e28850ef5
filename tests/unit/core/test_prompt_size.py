"""Sizes of prompts, and the tokens that they have at the least."""

from __future__ import annotations

import pytest

from serve_app.core.prompt_size import least_tokens, size_bytes
from serve_app.core.request import Prompt

PARTS = [{"type": "text", "text": "  abcdefgh  "}, {"type": "text", "text": "ij"}]
TALK = Prompt(
    messages=(
        {"role": "system", "content": "x" * 1000},
        {"role": "user", "content": PARTS},
        {"role": "assistant", "content": "y" * 1000},
        {"role": "user", "content": "k"},
    )
)


def test_all_texts_have_a_size() -> None:
    assert size_bytes(TALK) == 2015
    assert size_bytes(Prompt(text="h\u00e9")) == 3
    assert size_bytes(Prompt(token_ids=(1, 2))) == 0


@pytest.mark.parametrize(
    ("prompt", "max_token_bytes", "tokens"),
    [
        (TALK, 4, 3),  # eleven bytes of users
        (Prompt(text="abcde"), 4, 2),
        (Prompt(text="abcde"), 0, 0),
        (Prompt(token_ids=(1, 2, 3)), 0, 3),
    ],
)
def test_only_what_no_template_leaves_out_counts(prompt: Prompt, max_token_bytes: int, tokens: int) -> None:
    assert least_tokens(prompt, max_token_bytes) == tokens
