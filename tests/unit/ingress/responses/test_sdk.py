"""The unmodified `openai` package against the Responses API on a real HTTP server."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from serve_app.core.errors import EngineLost, QueueFull
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta
from tests.support.fake_router import FakeRouter, Hang, Script, fail, speak

ODD_TEXTS = ("Grüße ", "\u2028", "👩‍👩‍👧", "\n\n", "data: [DONE]", "\u0085", "नमस्ते")
MODEL = "test-model"
HALF: Script = [[Accepted(3, [1, 2, 3])], [TokenDelta(0, 0, 1, "Hel", [1])], Hang(), [TokenDelta(0, 1, 1, "lo", [2])],
                [Finished(0, FinishReason.STOP)]]  # fmt: skip
"""A script that hangs after its first token."""


async def test_a_response_and_its_stream_are_the_same_text(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [speak(*ODD_TEXTS)]
    whole = await client.responses.create(model=MODEL, input="hello")
    assert whole.output_text == "".join(ODD_TEXTS)
    assert whole.status == "completed"
    stream = await client.responses.create(model=MODEL, input="hello", stream=True)
    events = [event async for event in stream]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == list(ODD_TEXTS)
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


async def test_the_sdks_own_accumulation_of_events_works(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [speak(*ODD_TEXTS)]
    async with client.responses.stream(model=MODEL, input="hello", background=True) as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert snapshots[-1] == final.output_text == "".join(ODD_TEXTS)
    async with client.responses.stream(response_id=final.id, starting_after=6) as stream:
        numbers = [event.sequence_number async for event in stream]
        assert await stream.get_final_response() == final
    assert numbers == list(range(7, 16))


async def test_a_background_response_is_polled_to_its_end(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [HALF]
    response = await client.responses.create(model=MODEL, input="hello", background=True)
    assert response.status in ("queued", "in_progress")
    assert (await client.responses.retrieve(response.id)).output_text == "Hel"
    (key,) = router.retained
    router.go_on(key)
    response = await client.responses.retrieve(response.id)
    assert (response.status, response.output_text) == ("completed", "Hello")


async def test_a_stream_cut_after_every_event_goes_on_exactly_there(
    client: openai.AsyncOpenAI, router: FakeRouter
) -> None:
    router.scripts = [speak(*ODD_TEXTS)]
    stream = await client.responses.create(model=MODEL, input="hello", background=True, stream=True)
    whole = [event async for event in stream]
    for cut in range(1, len(whole) + 1):
        stream = await client.responses.create(model=MODEL, input="hello", background=True, stream=True)
        seen: list[ResponseStreamEvent] = []
        response_id = ""
        async for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            seen.append(event)
            if len(seen) == cut:
                break
        await stream.close()
        rest = await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
        seen += [event async for event in rest]
        assert [event.type for event in seen] == [event.type for event in whole]
        assert [event.sequence_number for event in seen] == list(range(len(whole)))
        assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == "".join(ODD_TEXTS)


async def test_leaving_a_background_stream_does_not_end_it(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [HALF]
    stream = await client.responses.create(model=MODEL, input="hello", background=True, stream=True)
    first = await anext(aiter(stream))
    assert first.type == "response.created"
    await stream.close()
    await router.streams[0].closing.wait()
    (retained,) = router.retained.values()
    assert not retained.stopped
    router.go_on(*router.retained)
    assert (await client.responses.retrieve(first.response.id)).output_text == "Hello"


async def test_cancel_and_delete(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [HALF]
    response = await client.responses.create(model=MODEL, input="hello", background=True)
    for _ in range(2):
        assert (await client.responses.cancel(response.id)).status == "cancelled"
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_input_items_are_listed_over_several_pages(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="one", instructions="Be brief.")
    second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    texts: list[str] = []
    async for item in client.responses.input_items.list(second.id, limit=1, order="asc"):
        assert item.type == "message"
        (part,) = item.content
        assert part.type in ("input_text", "output_text")
        texts.append(part.text)
    assert texts == ["one", "Hello", "two"]


async def test_the_output_of_a_response_may_be_sent_back(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    first = await client.responses.create(model=MODEL, input="one")
    spoken = [item.model_dump() for item in first.output]
    await client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "one"}, *spoken, {"role": "user", "content": "two"}],  # type: ignore[list-item]  # as users do
    )
    messages = router.requests[-1].prompt.messages
    assert messages is not None
    assert [message["content"] for message in messages] == ["one", "Hello", "two"]


async def test_errors_are_raised_as_their_documented_classes(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="hello", reasoning={"effort": "high"})
    assert refused.value.param == "reasoning"
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve("resp_nope")
    router.scripts = [fail(QueueFull("full"))]
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model=MODEL, input="hello", background=True, stream=stream)


async def test_a_failure_within_the_stream_is_its_last_event(client: openai.AsyncOpenAI, router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], EngineLost("the replica died")]]
    events = [event async for event in await client.responses.create(model=MODEL, input="hello", stream=True)]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the replica died"
    assert last.response.output_text == "a"


async def test_the_synchronous_client_works_as_well(base_url: str) -> None:
    def converse() -> tuple[str, str]:
        with openai.OpenAI(base_url=base_url, api_key="secret", max_retries=0) as client:
            stream = client.responses.create(model=MODEL, input="hello", stream=True, background=True)
            events = list(stream)
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            last = events[-1]
            assert last.type == "response.completed"
            rest = client.responses.retrieve(last.response.id, stream=True, starting_after=4)
            return text, "".join(event.delta for event in rest if event.type == "response.output_text.delta")

    assert await asyncio.to_thread(converse) == ("Hello", "Hello")
