"""OpenAI's Responses API on two routers: the unmodified SDK polls, is cut, goes on, cancels and deletes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp

TOKENS = 60
ENDS_WITHIN_S = 20.0
ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
FULL_LENGTH = {"ignore_eos": True}
CUTS = (0, 1, 5, 6, 20, 40, 64)


async def begun(app: ServedApp, model: str = "alpha") -> openai.AsyncStream[ResponseStreamEvent]:
    """A background stream; its answer is always the same."""
    return await app.openai.responses.create(
        model=model,
        input="Tell me something.",
        max_output_tokens=TOKENS,
        temperature=0,
        background=True,
        stream=True,
        extra_body=FULL_LENGTH,
    )


async def read_on(app: ServedApp, response_id: str, number: int) -> list[ResponseStreamEvent]:
    """The events after `number`, over a connection of its own: any router replica may get it."""
    async with openai.AsyncOpenAI(
        base_url=app.openai.base_url, api_key=app.openai.api_key, max_retries=0, timeout=app.openai.timeout
    ) as client:
        return [e async for e in await client.responses.retrieve(response_id, stream=True, starting_after=number)]


async def until_ended(app: ServedApp, response_id: str) -> Response:
    """Poll as OpenAI's guide does."""

    async def ended() -> Response | None:
        response = await app.openai.responses.retrieve(response_id)
        return None if response.status in ("queued", "in_progress") else response

    return await eventually_async(ended, ENDS_WITHIN_S, "the response has ended")


def text_of(events: Sequence[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def test_a_background_response_is_polled_to_its_end_and_continued(pair: ServedApp) -> None:
    first = await pair.openai.responses.create(
        model="alpha", input="Tell me something.", max_output_tokens=20, temperature=0, background=True
    )
    assert first.status in ("queued", "in_progress")
    ended = await until_ended(pair, first.id)
    assert ended.status in ("completed", "incomplete")
    assert ended.usage is not None
    assert ended.output_text
    second = await pair.openai.responses.create(
        model="alpha", input="And then?", previous_response_id=first.id, max_output_tokens=5
    )
    items = [item async for item in pair.openai.responses.input_items.list(second.id, order="asc")]
    texts = [item.content[0].text for item in items if item.type == "message"]  # type: ignore[union-attr]  # all are text
    assert texts == ["Tell me something.", ended.output_text, "And then?"]


async def test_streams_that_are_cut_after_any_event_go_on_exactly_there(pair: ServedApp) -> None:
    whole = [event async for event in await begun(pair)]
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert len(whole) > max(CUTS)

    async def cut_after(number: int) -> list[ResponseStreamEvent]:
        seen: list[ResponseStreamEvent] = []
        async with await begun(pair) as stream:
            async for event in stream:
                seen.append(event)
                if event.sequence_number == number:
                    break
        created = seen[0]
        assert created.type == "response.created"
        return seen + await read_on(pair, created.response.id, number)

    for events in await asyncio.gather(*map(cut_after, CUTS)):
        assert [(event.type, event.sequence_number) for event in events] == [
            (event.type, event.sequence_number) for event in whole
        ]
        assert text_of(events) == text_of(whole)


async def test_several_readers_at_both_routers_see_the_same_events(pair: ServedApp) -> None:
    whole = [event async for event in await begun(pair)]
    created = whole[0]
    assert created.type == "response.created"
    rests = await asyncio.gather(*(read_on(pair, created.response.id, number) for number in range(0, len(whole), 7)))
    for start, rest in zip(range(0, len(whole), 7), rests, strict=True):
        assert rest == whole[start + 1 :]


@pytest.mark.parametrize("deployment", ["Router", "Engine-steady"])
async def test_a_killed_replica_loses_nothing(failover: ServedApp, deployment: str) -> None:
    whole = {"Router": 2, "Engine-steady": 3}
    await failover.until_whole(whole)
    uncut = [event async for event in await begun(failover, "steady")]
    reading = [asyncio.create_task(read_through_breaks(failover)) for _ in range(6)]
    await failover.until_generating(6)
    victim = await failover.kill_busiest(deployment)
    answers = await asyncio.gather(*reading)
    print(f"{sum(breaks > 0 for _, breaks in answers)} of {len(answers)} connections broke")
    for events, _ in answers:
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert text_of(events) == text_of(uncut)
        assert events[-1].type == uncut[-1].type
    await failover.until_whole(whole, without=[victim])


async def read_through_breaks(app: ServedApp) -> tuple[list[ResponseStreamEvent], int]:
    """A background stream, read on where its connection broke; and how often it did."""
    events: list[ResponseStreamEvent] = []
    breaks = 0
    async with asyncio.timeout(60.0):
        stream = await begun(app, "steady")
        while True:
            try:
                async for event in stream:
                    assert event.type not in ("error", "response.failed"), event
                    events.append(event)
                if events[-1].type in ("response.completed", "response.incomplete"):
                    return events, breaks
            except (httpx.TransportError, openai.APIConnectionError, openai.InternalServerError):
                pass
            breaks += 1
            created = events[0]
            assert created.type == "response.created"
            stream = await _continued(app, created.response.id, events[-1].sequence_number)


async def _continued(app: ServedApp, response_id: str, number: int) -> openai.AsyncStream[ResponseStreamEvent]:
    """The events after `number`, from whichever router answers."""
    client = app.openai.with_options(max_retries=20)
    return await client.responses.retrieve(response_id, stream=True, starting_after=number)


async def test_cancel_reaches_the_engine_and_delete_forgets(pair: ServedApp) -> None:
    response = await pair.openai.responses.create(
        model="beta",
        input="Tell me something.",
        max_output_tokens=60_000,
        background=True,
        extra_body=FULL_LENGTH,
    )
    await pair.until_generating(1)
    cancelled = await pair.openai.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    await pair.until_idle(ABORTED_WITHIN_S)
    assert (await pair.openai.responses.retrieve(response.id)).status == "cancelled"
    await pair.openai.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await pair.openai.responses.retrieve(response.id)


async def test_leaving_a_response_that_is_not_stored_aborts_it(pair: ServedApp) -> None:
    stream = await pair.openai.responses.create(
        model="beta",
        input="Tell me something.",
        max_output_tokens=60_000,
        store=False,
        stream=True,
        extra_body=FULL_LENGTH,
    )
    await anext(aiter(stream))
    await pair.until_generating(1)
    await stream.close()
    await pair.until_idle(ABORTED_WITHIN_S)
