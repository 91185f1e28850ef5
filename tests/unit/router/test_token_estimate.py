"""Prompt tokens by bytes, as the router estimates them."""

from __future__ import annotations

import pytest

from serve_app.core.request import Prompt
from serve_app.router.token_estimate import TokenEstimate

HELLO = Prompt(messages=({"role": "user", "content": "Hello!"},))  # 32 tokens in the demo model's template
DOCUMENT = Prompt(messages=({"role": "user", "content": "The quick brown fox jumps. " * 300},))  # 8,100 bytes
DOCUMENT_TOKENS = 2131


def text(size: int) -> Prompt:
    return Prompt(text="a" * size)


def test_token_ids_are_counted_exactly():
    assert TokenEstimate().tokens(Prompt(token_ids=(1, 2, 3)), "t") == 3


def test_an_empty_prompt_is_one_token():
    assert TokenEstimate().tokens(Prompt(text=""), "t") == 1


def test_estimate_learns_the_models_ratio():
    estimate = TokenEstimate()
    korean = Prompt(text="안녕하세요 " * 100)  # 1,600 bytes
    assert estimate.tokens(korean, "t") == 400
    for _ in range(200):
        estimate.learn(korean, 800, "t")

    assert 780 <= estimate.tokens(korean, "t") <= 820


def test_estimate_learns_what_the_template_adds():
    estimate = TokenEstimate()
    for size in (10, 1000, 300, 5000) * 20:
        estimate.learn(text(size), 50 + size // 4, "t")

    assert estimate.tokens(text(1), "t") == pytest.approx(50, abs=5)
    assert estimate.tokens(text(8000), "t") == pytest.approx(2050, rel=0.02)


def test_many_short_prompts_do_not_blow_up_a_document():
    estimate = TokenEstimate()
    for _ in range(60):
        estimate.learn(HELLO, 32, "t")

    assert estimate.tokens(HELLO, "t") == pytest.approx(32, abs=2)
    for tenant in ("t", "another"):
        assert estimate.tokens(DOCUMENT, tenant) == pytest.approx(DOCUMENT_TOKENS, rel=0.1)


def test_prompts_of_few_tokens_do_not_hide_a_document():
    estimate = TokenEstimate()
    for _ in range(20):
        estimate.learn(Prompt(text="=" * 6400), 100, "odd")

    assert estimate.tokens(DOCUMENT, "another") == pytest.approx(DOCUMENT_TOKENS, rel=0.1)
    assert estimate.tokens(DOCUMENT, "odd") >= DOCUMENT_TOKENS * 0.45


def test_a_new_tenant_has_the_line_of_most_others():
    estimate = TokenEstimate()
    for tenant in "abcdefgh":
        for _ in range(20):
            estimate.learn(text(2000), 1000, tenant)

    assert estimate.tokens(text(4000), "new") == pytest.approx(2000, rel=0.05)


def test_messages_count_text_parts_and_their_own_overhead():
    parts = [{"type": "text", "text": "a" * 40}, {"type": "text", "text": "b" * 40}]
    prompt = Prompt(messages=({"role": "user", "content": parts}, {"role": "user", "content": "c" * 80}))
    assert TokenEstimate().tokens(prompt, "t") == 160 // 4 + 2 * 4


def test_text_that_is_no_unicode_has_a_size():
    assert TokenEstimate().tokens(Prompt(text="\ud800" * 4), "t") == 3
