from __future__ import annotations

import pytest

from serve_app.core.errors import ContextLengthExceeded, InvalidRequest
from serve_app.core.request import GenerationRequest, Prompt, Sampling
from serve_app.engine.context_window import output_limit

CHAT = Prompt(messages=({"role": "user", "content": "Hi"},))
TEXT = Prompt(text="Hi")


def _request(max_tokens: int | None, prompt: Prompt = TEXT) -> GenerationRequest:
    return GenerationRequest("id", "model", prompt, Sampling(max_tokens=max_tokens))


def test_without_max_tokens_the_output_may_fill_the_context() -> None:
    assert output_limit(_request(None), 90, 100) == 10


def test_max_tokens_that_just_fit_are_granted() -> None:
    assert output_limit(_request(10), 90, 100) == 10


def test_one_token_more_exceeds_the_context_and_the_message_counts() -> None:
    with pytest.raises(ContextLengthExceeded) as raised:
        output_limit(_request(11, CHAT), 90, 100)
    assert raised.value.message.startswith("This model's maximum context length is 100 tokens.")
    assert "you requested 101 tokens (90 in the messages, 11 in the completion)" in raised.value.message
    assert raised.value.param == "messages"


@pytest.mark.parametrize("max_tokens", [None, 1])
def test_prompt_that_leaves_no_room_exceeds_the_context(max_tokens: int | None) -> None:
    with pytest.raises(ContextLengthExceeded) as raised:
        output_limit(_request(max_tokens), 100, 100)
    assert "your prompt resulted in 100 tokens" in raised.value.message
    assert raised.value.param == "prompt"


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_less_than_one_token_is_refused(max_tokens: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        output_limit(_request(max_tokens), 1, 100)
    assert raised.value.param == "max_tokens"
