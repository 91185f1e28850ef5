"""The unmodified `openai` package against the API on a real HTTP server."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from serve_app.core.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    DeadlineUnattainable,
    EngineFailed,
    EngineLost,
    NoEngineAvailable,
    QueueFull,
    ServeAppError,
)
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta, TokenLogprob
from tests.support.fake_router import FakeRouter, Hang, Silence, fail, speak

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
ODD_TEXTS = ("Grüße ", "\u2028", "👩‍👩‍👧", "\n\n", "data: [DONE]", "\u0085", "नमस्ते")


async def test_models_are_listed_and_retrieved(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.model_ids = ("a", "org/b")
    assert [model.id async for model in client.models.list()] == ["a", "org/b"]
    assert (await client.models.retrieve("org/b")).id == "org/b"


async def test_a_chat_answer_and_its_stream_are_the_same_text(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [speak(*ODD_TEXTS, reason=FinishReason.LENGTH, cached=2)]
    whole = await client.chat.completions.create(model="test-model", messages=HELLO)
    assert whole.choices[0].message.content == "".join(ODD_TEXTS)
    assert whole.choices[0].finish_reason == "length"
    stream = await client.chat.completions.create(
        model="test-model", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.content for c in chunks[1:-2]] == list(ODD_TEXTS)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, len(ODD_TEXTS))
    assert whole.usage.prompt_tokens_details is not None
    assert whole.usage.prompt_tokens_details.cached_tokens == 2
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id.startswith("chatcmpl-")


async def test_an_answer_may_be_sent_back_in_the_next_request(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    first = await client.chat.completions.create(model="test-model", messages=HELLO)
    messages = [*HELLO, first.choices[0].message, *HELLO]
    await client.chat.completions.create(model="test-model", messages=messages)  # type: ignore[arg-type]
    assert router.requests[-1].prompt.messages == (
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "hello"},
    )


async def test_completions_whole_and_streamed(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [speak("a"), speak("b")]
    whole = await client.completions.create(model="test-model", prompt=["x", "y"], max_tokens=5)
    assert [choice.text for choice in whole.choices] == ["a", "b"]
    router.scripts = [speak(*ODD_TEXTS)]
    stream = await client.completions.create(model="test-model", prompt=[1, 2], stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "".join(ODD_TEXTS)


async def test_two_choices(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    deltas = [TokenDelta(choice, 0, 1, f"choice {choice}", [1]) for choice in (1, 0)]
    ends = [Finished(choice, FinishReason.STOP) for choice in (0, 1)]
    router.scripts = [[[Accepted(1, [1])], [*deltas], [*ends]]]
    whole = await client.chat.completions.create(model="test-model", messages=HELLO, n=2)
    assert [choice.message.content for choice in whole.choices] == ["choice 0", "choice 1"]
    stream = await client.chat.completions.create(model="test-model", messages=HELLO, n=2, stream=True)
    texts = ["", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["choice 0", "choice 1"]


async def test_logprobs_of_chat_and_completions(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    token = TokenLogprob("Hi", -0.25, (("Hi", -0.25), ("Yo", -2.0)))
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "Hi", [1], [token])], [Finished(0, FinishReason.STOP)]]]
    chat = await client.chat.completions.create(model="test-model", messages=HELLO, logprobs=True, top_logprobs=2)
    assert router.requests[-1].sampling.logprobs == 2
    assert chat.choices[0].logprobs is not None
    assert chat.choices[0].logprobs.content is not None
    assert [(t.token, t.logprob) for t in chat.choices[0].logprobs.content[0].top_logprobs] == list(token.top)
    stream = await client.chat.completions.create(
        model="test-model", messages=HELLO, logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [chunk.choices[0].logprobs async for chunk in stream if chunk.choices[0].logprobs]
    assert [logprobs.content for logprobs in streamed] == [chat.choices[0].logprobs.content]
    completion = await client.completions.create(model="test-model", prompt="a", logprobs=2)
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.top_logprobs == [{"Hi": -0.25, "Yo": -2.0}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ContextLengthExceeded("too long"), openai.BadRequestError),
        (QueueFull("full", 0.001), openai.RateLimitError),
        (NoEngineAvailable("none"), openai.InternalServerError),
        (EngineFailed("raised"), openai.InternalServerError),
        (DeadlineExceeded("late"), openai.InternalServerError),
    ],
)
async def test_each_error_is_raised_as_its_documented_class(
    client: openai.AsyncOpenAI,
    router: FakeRouter,
    error: ServeAppError,
    raised: type[openai.APIStatusError],
    stream: bool,
) -> None:
    router.scripts = [fail(error)]
    with pytest.raises(raised) as caught:
        await client.chat.completions.create(model="test-model", messages=HELLO, stream=stream)
    assert caught.value.status_code == error.status
    assert caught.value.code == error.code
    assert caught.value.request_id


async def test_bad_requests_are_raised_with_their_field(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nope", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model="test-model", messages=HELLO, temperature=9)
    assert (wrong.value.param, wrong.value.type) == ("temperature", "invalid_request_error")


async def test_a_failure_within_the_stream_is_raised_as_api_error(
    client: openai.AsyncOpenAI, router: FakeRouter
) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], EngineLost("the replica died")]]
    seen: list[str | None] = []
    with pytest.raises(openai.APIError, match="the replica died") as caught:
        async for chunk in await client.chat.completions.create(model="test-model", messages=HELLO, stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["", "a"]
    assert caught.value.code == "engine_lost"


async def test_a_refusal_after_the_headers_is_raised_as_api_error(
    client: openai.AsyncOpenAI, router: FakeRouter
) -> None:
    router.scripts = [[Silence(place=3), QueueFull("no place was free", 2.25)]]
    stream = await client.chat.completions.create(model="test-model", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="no place was free") as caught:
        await anext(aiter(stream))
    assert caught.value.code == "queue_full"


async def test_comments_while_waiting_do_not_disturb_the_sdk(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [[Silence(2), Silence(), *speak("a", "b")]]
    stream = await client.chat.completions.create(model="test-model", messages=HELLO, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "ab"


@pytest.fixture
def sdk_waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the SDK waits before its retries, in seconds; it does not really wait."""
    waits_s: list[float] = []

    async def no_sleep(delay_s: float) -> None:
        waits_s.append(delay_s)

    monkeypatch.setattr("openai._base_client.anyio.sleep", no_sleep)
    return waits_s


@pytest.mark.parametrize("error", [QueueFull("full", 2.25), DeadlineUnattainable("late", 2.25)])
async def test_the_sdk_retries_a_refusal_exactly_when_told(
    base_url: str, router: FakeRouter, sdk_waits_s: list[float], error: ServeAppError
) -> None:
    router.scripts = [fail(error), speak("at last")]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="secret", max_retries=1) as client:
        answer = await client.chat.completions.create(model="test-model", messages=HELLO)
    assert answer.choices[0].message.content == "at last"
    assert sdk_waits_s == [2.25]


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), EngineFailed("raised")])
async def test_the_sdk_does_not_retry_what_cannot_help(
    base_url: str, router: FakeRouter, sdk_waits_s: list[float], error: ServeAppError
) -> None:
    router.scripts = [fail(error), speak("never")]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="secret", max_retries=5) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="test-model", messages=HELLO)
    assert sdk_waits_s == []
    assert len(router.streams) == 1


async def test_a_cancelled_stream_stops_the_generation(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]]
    stream = await client.chat.completions.create(model="test-model", messages=HELLO, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await router.streams[0].closing.wait()


async def test_the_synchronous_client_works_as_well(base_url: str) -> None:
    def converse() -> str:
        with openai.OpenAI(base_url=base_url, api_key="secret", max_retries=0) as client:
            stream = client.chat.completions.create(model="test-model", messages=HELLO, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(converse) == "Hello"


async def test_a_resumable_stream_is_read_through_silences(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    """The SDK takes an empty line for an event, once an event had an id."""
    first, *rest = speak(*ODD_TEXTS)
    router.scripts = [[Silence(2), first, rest[0], Silence(), *rest[1:]]]
    stream = await client.chat.completions.create(
        model="test-model", messages=HELLO, stream=True, extra_headers={"X-Stream-Resume": "true"}
    )
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "".join(ODD_TEXTS)
    stream_id = stream.response.headers["x-stream-id"]
    rest_of_it = await client.chat.completions.create(
        model="test-model", messages=HELLO, stream=True, extra_headers={"Last-Event-ID": f"{stream_id}.3"}
    )
    assert "".join([c.choices[0].delta.content or "" async for c in rest_of_it]) == "".join(ODD_TEXTS[3:])


async def test_a_resumable_stream_that_breaks_raises(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], EngineLost("gone")]]
    stream = await client.chat.completions.create(
        model="test-model", messages=HELLO, stream=True, extra_headers={"X-Stream-Resume": "true"}
    )
    with pytest.raises(openai.APIError, match="gone"):
        async for _ in stream:
            pass


async def test_an_unknown_stream_raises_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(
            model="test-model", messages=HELLO, stream=True, extra_headers={"Last-Event-ID": "x.1"}
        )
