from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.core.errors import ContextLengthExceeded, InvalidRequest
from serve_app.core.request import Prompt
from serve_app.engine.simulated.prompt import render, render_beside_others
from serve_app.engine.simulated.vocabulary import END, MAX_PIECE_BYTES, ROLE_TOKENS, VOCABULARY_SIZE, encode


def _chat(*messages: dict[str, Any], **options: Any) -> Prompt:
    return Prompt(messages=messages, **options)


def test_chat_is_rendered_with_a_role_token_and_an_end_around_each_message() -> None:
    ids = render(_chat({"role": "system", "content": "Be"}, {"role": "user", "content": " good"}))
    assert ids == [
        ROLE_TOKENS["system"],
        *encode("Be"),
        END,
        ROLE_TOKENS["user"],
        *encode(" good"),
        END,
        ROLE_TOKENS["assistant"],
    ]


def test_without_generation_prompt_the_chat_ends_with_its_last_message() -> None:
    ids = render(_chat({"role": "user", "content": "Hi"}, add_generation_prompt=False))
    assert ids == [ROLE_TOKENS["user"], *encode("Hi"), END]


def test_continued_final_message_is_left_open() -> None:
    ids = render(_chat({"role": "assistant", "content": " the"}, continue_final_message=True))
    assert ids == [ROLE_TOKENS["assistant"], *encode(" the")]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(_chat({"role": "user", "content": parts})) == render(_chat({"role": "user", "content": "ab"}))


def test_assistant_message_may_have_no_content() -> None:
    assert render(_chat({"role": "assistant", "content": None}))[:2] == [ROLE_TOKENS["assistant"], END]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": "king", "content": "unknown role"},
        {"role": ["user"], "content": "role of a wrong type"},
        {"role": "user", "content": None},
        {"role": "user"},
        {"role": "user", "content": 7},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": [{"type": "text", "text": 7}]},
    ],
)
def test_wrong_message_names_the_messages_field(message: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        render(_chat({"role": "user", "content": "fine"}, message))
    assert raised.value.param == "messages"
    assert "essage 1" in raised.value.message


def test_empty_conversation_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        render(_chat())
    assert raised.value.param == "messages"


@pytest.mark.parametrize("prompt", [Prompt(text=""), Prompt(token_ids=())])
def test_empty_prompt_is_refused(prompt: Prompt) -> None:
    with pytest.raises(InvalidRequest) as raised:
        render(prompt)
    assert raised.value.param == "prompt"


@pytest.mark.parametrize("token", [-1, VOCABULARY_SIZE])
def test_unknown_token_id_is_refused(token: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        render(Prompt(token_ids=(1, token)))
    assert raised.value.param == "prompt"


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(text="zyzzyva 서울 " * 3000),
        _chat({"role": "system", "content": "x" * 20_000}, {"role": "user", "content": "Hi"}),
        _chat(*({"role": "user", "content": "Hi"} for _ in range(3000))),
    ],
)
async def test_what_is_rendered_in_turns_is_the_same(prompt: Prompt) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await render_beside_others(prompt, 100_000) == render(prompt)
    counting.cancel()
    assert 2 < turns < 30


async def test_rendering_ends_when_the_window_is_full() -> None:
    with pytest.raises(ContextLengthExceeded, match="more than 3000 tokens") as raised:
        await render_beside_others(_chat({"role": "user", "content": "zyzzyva " * 2500}), 3000)
    assert raised.value.param == "messages"


@pytest.mark.parametrize("role", list(ROLE_TOKENS))
async def test_a_text_that_cannot_fit_is_not_rendered(role: str) -> None:
    with pytest.raises(ContextLengthExceeded, match="at least 100 tokens"):
        await render_beside_others(_chat({"role": role, "content": "x" * 100 * MAX_PIECE_BYTES}), 100)
