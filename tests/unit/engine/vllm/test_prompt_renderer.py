from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.core.errors import ContextLengthExceeded, InvalidRequest
from serve_app.core.request import Prompt
from serve_app.engine.vllm.prompt_renderer import LONG_CHARS, PromptRenderer
from tests.support.settling import settle


class _Tokenizer:
    """One token per character; remembers what it was asked, and on which thread."""

    def __init__(self) -> None:
        self.conversation: list[dict[str, Any]] = []
        self.options: dict[str, Any] = {}
        self.threads: list[int] = []

    def __deepcopy__(self, memo: object) -> _Tokenizer:
        return self

    def encode(self, text: str, /) -> list[int]:
        self.threads.append(threading.get_ident())
        return [ord(character) for character in text]

    def apply_chat_template(self, messages: list[dict[str, Any]], /, **options: Any) -> list[int] | str:
        self.conversation, self.options = messages, options
        if any(message["role"] == "king" for message in messages):
            raise ValueError("no kings")
        text = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return self.encode(text) if options["tokenize"] else text


@pytest.fixture
def tokenizer() -> _Tokenizer:
    return _Tokenizer()


@pytest.fixture
def renderer(tokenizer: _Tokenizer) -> Iterator[PromptRenderer]:
    renderer = PromptRenderer(tokenizer, inline_chars=100)
    yield renderer
    renderer.close()


def _chat(*messages: dict[str, Any], **options: Any) -> Prompt:
    return Prompt(messages=messages, **options)


async def test_text_is_encoded(renderer: PromptRenderer) -> None:
    assert await renderer.render(Prompt(text="ab")) == [97, 98]


async def test_token_ids_are_taken_as_they_are(renderer: PromptRenderer) -> None:
    assert await renderer.render(Prompt(token_ids=(3, 1))) == [3, 1]


async def test_chat_is_rendered_by_the_tokenizers_template(renderer: PromptRenderer, tokenizer: _Tokenizer) -> None:
    ids = await renderer.render(_chat({"role": "user", "content": "Hi"}, chat_template_kwargs={"thinking": False}))
    assert "".join(map(chr, ids)) == "<user>Hi"
    assert tokenizer.options["add_generation_prompt"] is True
    assert tokenizer.options["thinking"] is False


async def test_continued_final_message_gets_no_generation_prompt(
    renderer: PromptRenderer, tokenizer: _Tokenizer
) -> None:
    await renderer.render(_chat({"role": "assistant", "content": "Once"}, continue_final_message=True))
    assert tokenizer.options["continue_final_message"] is True
    assert tokenizer.options["add_generation_prompt"] is False


async def test_a_developer_message_is_a_system_message_for_a_template_that_does_not_know_it(
    tokenizer: _Tokenizer,
) -> None:
    renderer = PromptRenderer(tokenizer, chat_template="{% if message['role'] == 'system' %}")
    ids = await renderer.render(_chat({"role": "developer", "content": "be brief"}, {"role": "user", "content": "Hi"}))
    renderer.close()
    assert "".join(map(chr, ids)) == "<system>be brief<user>Hi"


async def test_system_messages_are_joined_at_the_beginning_where_one_came_from_a_developer(
    tokenizer: _Tokenizer,
) -> None:
    renderer = PromptRenderer(tokenizer, chat_template="{{ messages }}")
    system = {"role": "system", "content": "one"}
    user, developer = {"role": "user", "content": "Hi"}, {"role": "developer", "content": "two"}
    joined = await renderer.render(_chat(system, user, developer))
    assert "".join(map(chr, joined)) == "<system>one\n\ntwo<user>Hi"
    untouched = await renderer.render(_chat(user, system))
    assert "".join(map(chr, untouched)) == "<user>Hi<system>one"
    renderer.close()


async def test_a_template_that_knows_developers_gets_them(tokenizer: _Tokenizer) -> None:
    renderer = PromptRenderer(tokenizer, chat_template="{% if message['role'] == 'developer' %}")
    ids = await renderer.render(_chat({"role": "developer", "content": "be brief"}))
    renderer.close()
    assert "".join(map(chr, ids)) == "<developer>be brief"


async def test_configured_template_replaces_the_tokenizers_own(tokenizer: _Tokenizer) -> None:
    renderer = PromptRenderer(tokenizer, chat_template="{{ messages }}")
    await renderer.render(_chat({"role": "user", "content": "Hi"}))
    renderer.close()
    assert tokenizer.options["chat_template"] == "{{ messages }}"


async def test_text_parts_are_joined_by_line_ends(renderer: PromptRenderer, tokenizer: _Tokenizer) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await renderer.render(_chat({"role": "user", "content": parts}))
    assert tokenizer.conversation == [{"role": "user", "content": "a\nb"}]


async def test_assistant_message_may_have_no_content(renderer: PromptRenderer, tokenizer: _Tokenizer) -> None:
    await renderer.render(_chat({"role": "assistant", "content": None, "tool_calls": []}))
    assert tokenizer.conversation == [{"role": "assistant", "content": "", "tool_calls": []}]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ((), "messages"),
        (({"content": "no role"},), "messages.0.role"),
        (({"role": ["user"], "content": "a role of a wrong type"},), "messages.0.role"),
        (({"role": "king", "content": "a role that the template refuses"},), "messages"),
        (({"role": "user", "content": "fine"}, {"role": "user"}), "messages.1.content"),
        (({"role": "user", "content": 7},), "messages.0.content"),
        (({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},), "messages.0.content"),
        (({"role": "user", "content": [{"type": "text", "text": 7}]},), "messages.0.content"),
        (({"role": "user", "content": "half a surrogate pair: \ud83d"},), "messages.0.content"),
    ],
)
async def test_messages_that_cannot_be_rendered_are_refused_by_name(
    renderer: PromptRenderer, messages: tuple[dict[str, Any], ...], param: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await renderer.render(_chat(*messages))
    assert raised.value.param == param


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "add_generation_prompt"])
async def test_template_variables_cannot_replace_the_renderers_own_arguments(
    renderer: PromptRenderer, name: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await renderer.render(_chat({"role": "user", "content": "Hi"}, chat_template_kwargs={name: "x"}))
    assert raised.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("prompt", [Prompt(text=""), Prompt(token_ids=())])
async def test_empty_prompt_is_refused(renderer: PromptRenderer, prompt: Prompt) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await renderer.render(prompt)
    assert raised.value.param == "prompt"


async def test_lone_surrogate_in_a_text_is_refused(renderer: PromptRenderer) -> None:
    with pytest.raises(InvalidRequest):
        await renderer.render(Prompt(text="\udc00"))


async def test_only_long_prompts_leave_the_event_loops_thread(renderer: PromptRenderer, tokenizer: _Tokenizer) -> None:
    here = threading.get_ident()
    for prompt in (
        Prompt(text="a" * 100),
        _chat({"role": "user", "content": "a" * 80}),
        Prompt(text="a" * 101),
        _chat({"role": "user", "content": "a" * 101}),
        _chat({"role": "user", "content": "a", "tool_calls": [{"arguments": "a" * 100}]}),
        _chat({"role": "user", "content": "a"}, chat_template_kwargs={"documents": ["a" * 100]}),
        _chat(*({"role": "user", "content": ""} for _ in range(100))),
    ):
        await renderer.render(prompt)
    assert [thread == here for thread in tokenizer.threads] == [True, True, *[False] * 5]


class _Busy(_Tokenizer):
    """Works on texts that begin with `L` until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.lengths: list[int] = []

    def encode(self, text: str, /) -> list[int]:
        self.lengths.append(len(text))
        if text.startswith("L"):
            assert self.go_on.wait(10)
        return super().encode(text)


async def test_a_long_prompt_holds_up_nobody_but_others_as_long() -> None:
    tokenizer = _Busy()
    renderer = PromptRenderer(tokenizer, inline_chars=100)
    long = [asyncio.create_task(renderer.render(Prompt(text="L" + "x" * LONG_CHARS))) for _ in range(2)]
    try:
        assert len(await renderer.render(Prompt(text="x" * LONG_CHARS))) == LONG_CHARS
        assert len(await renderer.render(Prompt(text="short"))) == 5
        long[1].cancel()  # its client left before its turn
        await asyncio.gather(long[1], return_exceptions=True)
    finally:
        tokenizer.go_on.set()
    assert len(await long[0]) == LONG_CHARS + 1
    await renderer.render(Prompt(text="x" * (LONG_CHARS + 1)))
    renderer.close()
    assert len(tokenizer.threads) == 4


@pytest.mark.parametrize("chat", [True, False])
async def test_what_cannot_fit_is_refused_before_it_is_rendered(tokenizer: _Tokenizer, chat: bool) -> None:
    renderer = PromptRenderer(tokenizer, max_model_len=100, max_token_bytes=4)
    text = "x" * 400
    prompt = _chat({"role": "user", "content": text}) if chat else Prompt(text=text)
    with pytest.raises(ContextLengthExceeded, match=r"maximum context length is 100 tokens.*at least 100 tokens"):
        await renderer.render(prompt)
    assert tokenizer.threads == []
    renderer.close()


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
async def test_what_is_clearly_too_long_is_given_up_after_as_much_work_as_what_fits(
    tokenizer: _Tokenizer, role: str
) -> None:
    renderer = PromptRenderer(tokenizer, max_model_len=100_000)
    with pytest.raises(ContextLengthExceeded) as raised:
        await renderer.render(_chat({"role": role, "content": "x" * 4_000_000}))
    assert raised.value.param == "messages"
    assert len(tokenizer.threads) == 2
    renderer.close()


async def test_a_conversation_that_cannot_fit_is_refused_before_it_is_encoded_whoever_speaks(
    tokenizer: _Tokenizer,
) -> None:
    renderer = PromptRenderer(tokenizer, max_model_len=1000, max_token_bytes=10)
    with pytest.raises(ContextLengthExceeded, match="at least 1000 tokens"):
        await renderer.render(_chat({"role": "system", "content": "x" * 10_000}))
    assert tokenizer.threads == []
    renderer.close()


async def test_a_waiting_book_lets_a_chapter_pass() -> None:
    tokenizer = _Busy()
    renderer = PromptRenderer(tokenizer)
    texts = ["L" + "x" * LONG_CHARS, "x" * 10 * LONG_CHARS, "x" * 2 * LONG_CHARS]
    tasks = [asyncio.create_task(renderer.render(Prompt(text=text))) for text in texts]
    await settle()
    tokenizer.go_on.set()
    await asyncio.gather(*tasks)
    assert tokenizer.lengths == [LONG_CHARS + 1, 2 * LONG_CHARS, 10 * LONG_CHARS]
    renderer.close()


async def test_long_words_are_counted_before_they_are_refused() -> None:
    renderer = PromptRenderer(_Words(), max_model_len=100)
    assert await renderer.render(Prompt(text="wonderfully " * 90 + " " * 4000)) == [1] * 90
    renderer.close()


class _Words(_Tokenizer):
    """One token per word."""

    def encode(self, text: str, /) -> list[int]:
        return [1] * len(text.split())
