"""The unmodified `openai` package talks to a real model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.real.questions import CAPITAL, ESSAY, MODEL
from tests.support.served_app import ServedApp

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; another for a step of the model on a busy CPU, and for the scrape that shows it."""


async def test_models_are_listed_with_their_context_window(app: ServedApp) -> None:
    (model,) = [model async for model in app.openai.models.list()]
    assert model.id == MODEL
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == 2048
    assert (await app.openai.models.retrieve(MODEL)).id == MODEL


async def test_answer_about_the_capital_of_france_names_paris(app: ServedApp) -> None:
    answer = await app.openai.chat.completions.create(**CAPITAL)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_streamed_answer_comes_in_pieces_and_equals_the_whole_one(app: ServedApp) -> None:
    whole = await app.openai.chat.completions.create(**CAPITAL)
    stream = await app.openai.chat.completions.create(**CAPITAL, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 1
    assert "".join(pieces) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_leaving_a_stream_in_the_middle_leaves_the_engine_idle(app: ServedApp) -> None:
    stream = await app.openai.chat.completions.create(**ESSAY, stream=True)
    received = 0
    async for chunk in stream:
        received += bool(chunk.choices[0].delta.content)
        if received == 3:
            break
    assert (await app.scrape()).total("serve_app_engine_running") == 1
    await stream.close()
    await app.until_idle(ABORTED_WITHIN_S)


async def test_leaving_an_unstreamed_request_leaves_the_engine_idle(app: ServedApp) -> None:
    request = asyncio.create_task(app.openai.chat.completions.create(**ESSAY))
    await app.until_generating(1)
    request.cancel()
    await asyncio.wait([request])
    await app.until_idle(ABORTED_WITHIN_S)


async def test_twenty_at_once_are_all_right(app: ServedApp) -> None:
    async def streamed() -> str:
        stream = await app.openai.chat.completions.create(**CAPITAL, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def whole() -> str:
        answer = await app.openai.chat.completions.create(**CAPITAL)
        return answer.choices[0].message.content or ""

    answers = await asyncio.gather(*(streamed() for _ in range(10)), *(whole() for _ in range(10)))
    assert all("Paris" in answer for answer in answers), answers


async def test_text_completion_continues_its_prompt(app: ServedApp) -> None:
    answer = await app.openai.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=5
    )
    assert "Paris" in answer.choices[0].text


async def test_n_gives_that_many_choices_streamed_too(app: ServedApp) -> None:
    asked = {**CAPITAL, "temperature": 1.0, "seed": 5, "n": 2, "max_tokens": 8}
    whole = await app.openai.chat.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1]
    stream = await app.openai.chat.completions.create(**asked, stream=True)
    ends = [c.choices[0].index async for c in stream if c.choices[0].finish_reason]
    assert sorted(ends) == [0, 1]


async def test_logprobs_tell_each_token_and_its_likeliest_rivals(app: ServedApp) -> None:
    answer = await app.openai.chat.completions.create(**{**CAPITAL, "max_tokens": 6}, logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens).startswith(choice.message.content or "-")
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy: the drawn token is the likeliest"
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


async def test_stop_string_ends_the_text_before_it(app: ServedApp) -> None:
    answer = await app.openai.chat.completions.create(**CAPITAL, stop=["Paris"])
    assert answer.choices[0].finish_reason == "stop"
    content = answer.choices[0].message.content or ""
    assert "capital of France" in content
    assert "Paris" not in content
    stream = await app.openai.chat.completions.create(**CAPITAL, stop=["Paris"], stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == content


async def test_seed_makes_sampling_repeatable(app: ServedApp) -> None:
    async def sampled(seed: int) -> str:
        answer = await app.openai.chat.completions.create(
            **{**CAPITAL, "temperature": 1.5, "seed": seed, "max_tokens": 8}
        )
        return answer.choices[0].message.content or ""

    assert await sampled(11) == await sampled(11)
    assert len({await sampled(seed) for seed in (12, 13, 14)}) > 1


async def test_max_completion_tokens_bounds_the_answer(app: ServedApp) -> None:
    asked = {name: value for name, value in CAPITAL.items() if name != "max_tokens"}
    answer = await app.openai.chat.completions.create(**asked, max_completion_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("repeated", ["안녕하세요 세계", "🙂🚀👩‍👩‍👧"])
async def test_characters_of_several_tokens_never_come_garbled(app: ServedApp, repeated: str) -> None:
    """A prompt that repeats itself is continued: a model this small writes Korean and emoji in no other way."""
    asked: dict[str, Any] = {"model": MODEL, "prompt": f"{repeated}, " * 12, "temperature": 0, "max_tokens": 32}
    whole = (await app.openai.completions.create(**asked)).choices[0].text
    stream = await app.openai.completions.create(**asked, stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream if chunk.choices[0].text]
    assert "".join(pieces) == whole
    assert sum(character in whole for character in repeated) > 1, f"the model answered {whole!r}"
    # The last character may be cut off by max_tokens; within the text nothing is.
    assert all("\ufffd" not in piece for piece in pieces[:-1])


async def test_prompt_in_other_scripts_is_answered(app: ServedApp) -> None:
    answer = await app.openai.chat.completions.create(
        **{**CAPITAL, "messages": [{"role": "user", "content": "프랑스의 수도는 어디인가요? 🇫🇷\u2028👩‍👩‍👧"}]}
    )
    assert answer.choices[0].message.content
