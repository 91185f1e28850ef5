from __future__ import annotations

from serve_app.core.request import Prompt
from serve_app.router.token_estimate import TokenEstimate


def test_token_ids_are_counted_exactly():
    assert TokenEstimate().tokens(Prompt(token_ids=(1, 2, 3))) == 3


def test_an_empty_prompt_is_one_token():
    assert TokenEstimate().tokens(Prompt(text="")) == 1


def test_estimate_learns_the_models_ratio():
    estimate = TokenEstimate()
    korean = Prompt(text="안녕하세요 " * 100)  # 1,600 bytes
    assert estimate.tokens(korean) == 400
    for _ in range(200):
        estimate.learn(korean, 800)

    assert 780 <= estimate.tokens(korean) <= 820


def test_messages_count_text_parts_and_their_own_overhead():
    parts = [{"type": "text", "text": "a" * 40}, {"type": "text", "text": "b" * 40}]
    prompt = Prompt(messages=({"role": "user", "content": parts}, {"role": "user", "content": "c" * 80}))
    assert TokenEstimate().tokens(prompt) == 160 // 4 + 2 * 4
