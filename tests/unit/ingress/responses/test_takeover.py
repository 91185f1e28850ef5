"""Responses at several router replicas, with the real routers: cut, read on elsewhere, and outliving both sides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from serve_app.ingress.http.application import Api
from tests.support.asgi_reader import read_events
from tests.support.retained_api import api_of
from tests.support.retained_reading import virtual
from tests.support.retained_world import MODEL, World, whole
from tests.unit.openai_api.responses import check_response, checked_events, numbers_of, types_of

URL = "/v1/responses"
TOKENS = 20
LONG = 3000
"""Tokens of an answer that takes 30 s."""


async def begin(
    api: Api, tokens: int = TOKENS, leave_after: int | None = None, background: bool = True
) -> list[dict[str, Any]]:
    """The events of a new response, up to as many as `leave_after`."""
    body = {"model": MODEL, "input": "hi", "max_output_tokens": tokens, "stream": True, "background": background}
    return events_in(await read_events(api, "POST", URL, json.dumps(body).encode(), None, leave_after))


async def read_on(api: Api, events: Sequence[dict[str, Any]], leave_after: int | None = None) -> list[Any]:
    """What comes after `events`."""
    after = events[-1]["sequence_number"]
    url = f"{URL}/{id_of(events)}?stream=true&starting_after={after}"
    return events_in(await read_events(api, "GET", url, leave_after=leave_after))


def events_in(blocks: Sequence[str]) -> list[dict[str, Any]]:
    return checked_events("".join(f"{block}\n\n" for block in blocks))


def id_of(events: Sequence[dict[str, Any]]) -> str:
    response_id: str = events[0]["response"]["id"]
    return response_id


def same(events: Sequence[dict[str, Any]]) -> list[Any]:
    """`events` without what differs between two responses to one request."""
    response_id = id_of(events)
    text = json.dumps(events).replace(response_id.removeprefix("resp_"), "ID")
    found: list[Any] = json.loads(text)
    for event in found:
        if "response" in event:
            del event["response"]["created_at"]
    return found


def text_of(events: Sequence[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


async def object_at(api: Api, method: str, path: str) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        response = await client.request(method, path)
    document: dict[str, Any] = response.json()
    if "object" in document and document.get("object") == "response" and "output" in document:
        check_response(document)
    return response.status_code, document


@virtual
async def test_a_response_that_is_cut_after_any_event_goes_on_exactly_there_at_another_router() -> None:
    async with World(routers=2) as world:
        first, second = api_of(world, "r0"), api_of(world, "r1")
        uncut = await begin(first)
        assert text_of(uncut) == whole(TOKENS)
        assert numbers_of(uncut) == list(range(len(uncut)))
        for cut in range(1, len(uncut)):
            begun = await begin(first, leave_after=cut)
            assert len(begun) == cut
            assert same(begun + await read_on(second, begun)) == same(uncut)


@pytest.mark.parametrize("tokens_before", [1, 7, 15])
def test_a_response_outlives_the_router_that_served_it(tokens_before: int) -> None:
    @virtual
    async def test() -> None:
        async with World(routers=2) as world:
            uncut = await begin(api_of(world, "r1"))
            begun = await begin(api_of(world, "r0"), leave_after=5 + tokens_before)
            await world.kill_router("r0")
            assert same(begun + await read_on(api_of(world, "r1"), begun)) == same(uncut)

    test()


@pytest.mark.parametrize("tokens_before", [1, 6, 7, 15])
def test_a_response_outlives_its_engine_and_its_router(tokens_before: int) -> None:
    @virtual
    async def test() -> None:
        async with World(routers=2, engines=2) as world:
            uncut = await begin(api_of(world, "r1"))
            begun = await begin(api_of(world, "r0"), leave_after=5 + tokens_before)
            running = [name for name, engine in world.engines.items() if engine.engine.running]
            world.kill_engine(*running)
            await asyncio.sleep(0.5)
            await world.kill_router("r0")
            assert same(begun + await read_on(api_of(world, "r1"), begun)) == same(uncut)

    test()


@virtual
async def test_a_reader_whose_response_is_taken_over_is_told_so_and_can_take_it_back() -> None:
    async with World(routers=2) as world:
        first, second = api_of(world, "r0"), api_of(world, "r1")
        begun = await begin(first, tokens=200, leave_after=6)
        reader = asyncio.create_task(read_on(first, begun))
        await asyncio.sleep(0.3)
        other = asyncio.create_task(read_on(second, begun, leave_after=50))
        *seen, error = await reader
        assert (error["type"], error["code"]) == ("error", "stream_taken_over")
        assert error["sequence_number"] == seen[-1]["sequence_number"]
        await other
        everything = [*begun, *seen, *await read_on(first, [*begun, *seen])]
        assert text_of(everything) == whole(200)
        assert numbers_of(everything) == list(range(len(everything)))


@virtual
async def test_a_background_response_is_seen_cancelled_and_deleted_at_any_router() -> None:
    async with World(routers=2) as world:
        first, second = api_of(world, "r0"), api_of(world, "r1")
        path = f"{URL}/{id_of(await begin(first, LONG, leave_after=20))}"
        assert world.running == 1
        assert (await object_at(second, "GET", path))[1]["status"] == "in_progress"
        cancelled = await object_at(second, "POST", f"{path}/cancel")
        assert (cancelled[0], cancelled[1]["status"]) == (200, "cancelled")
        await asyncio.sleep(1.0)
        assert world.running == 0
        assert await object_at(first, "GET", path) == cancelled
        assert (await object_at(first, "DELETE", path))[1]["deleted"] is True
        for api in (first, second):
            assert (await object_at(api, "GET", path))[0] == 404


@virtual
async def test_without_a_reader_only_background_responses_go_on_after_the_grace_time() -> None:
    async with World(routers=1) as world:
        api = api_of(world, "r0")
        foreground = await begin(api, LONG, leave_after=20, background=False)
        background = await begin(api, LONG, leave_after=20)
        await asyncio.sleep(4.0)
        assert world.running == 2
        await asyncio.sleep(2.0)
        assert world.running == 1
        _, document = await object_at(api, "GET", f"{URL}/{id_of(foreground)}")
        assert document["status"] == "cancelled"
        assert types_of(await read_on(api, foreground))[-1] == "incomplete"
        await asyncio.sleep(30.0)
        _, document = await object_at(api, "GET", f"{URL}/{id_of(background)}")
        assert (document["status"], document["usage"]["output_tokens"]) == ("incomplete", LONG)


@virtual
async def test_a_response_is_forgotten_when_its_time_is_over() -> None:
    async with World(routers=1, keep_s=10.0) as world:
        api = api_of(world, "r0")
        path = f"{URL}/{id_of(await begin(api))}"
        await asyncio.sleep(9.0)
        assert (await object_at(api, "GET", path))[0] == 200
        await asyncio.sleep(2.0)
        assert (await object_at(api, "GET", path))[0] == 404
