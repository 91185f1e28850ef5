"""Streams whose router is killed, whose engine is killed, and whose clients come back at any router, on Ray.

The simulated engine's tokens are a function of prompt, seed and position, so each answer is known beforehand.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Callable, Sequence

import httpx
import pytest

from serve_app.engine.simulated.config import SimulatedEngineConfig
from tests.integration.simulated.applications import STEADY
from tests.support.polling import eventually_async
from tests.support.resuming_reader import ResumedAnswer, read_resuming
from tests.support.scrape import Scrape
from tests.support.serve_cluster import Replica
from tests.support.served_app import API_KEY, ServedApp, chat
from tests.support.simulated_answers import whole_answer

ENGINE = "Engine-steady"
WHOLE = {"Router": 2, ENGINE: 3}
STREAMS = 20
TOKENS = 60
"""Six seconds."""
TENANT = {"Authorization": f"Bearer {API_KEY}"}

_ENGINE_CONFIG = SimulatedEngineConfig.model_validate(STEADY["engine"])
_numbers = itertools.count(1000)


class _Stream:
    """A stream whose client resumes it, with a prompt and a seed of its own."""

    def __init__(self, app: ServedApp) -> None:
        number = next(_numbers)
        self.body = chat("steady", TOKENS, f"Story number {number}.", temperature=1.0, seed=number)
        self.result = ResumedAnswer()
        reading = read_resuming(f"{app.url}/v1/chat/completions", self.body, dict(TENANT), self.result)
        self.task = asyncio.create_task(reading)


Told = Callable[[Sequence[_Stream]], None]


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """Asserts that all streams got the whole answer, and only it; prints counts."""

    def tell(streams: Sequence[_Stream]) -> None:
        wrong = [stream for stream in streams if stream.result.answer.text != _expected(stream)]
        print(
            json.dumps(
                {
                    "test": request.node.name,
                    "streams": len(streams),
                    "wrong_texts": len(wrong),
                    "broken_connections": sum(stream.result.breaks for stream in streams),
                }
            )
        )
        assert not [stream.result.answer.error for stream in streams if stream.result.answer.error is not None]
        assert not wrong, [(stream.result.answer.text, _expected(stream)) for stream in wrong[:2]]
        # Who had it all but the last line is told the end again.
        assert all(stream.result.ends for stream in streams)

    return tell


async def test_a_killed_router_loses_nothing_of_what_it_served(failover: ServedApp, told: Told) -> None:
    await failover.until_whole(WHOLE)
    streams = await _begin(failover, STREAMS)
    before, served = await _busiest_first(failover)
    (victim, its_streams), (survivor, _) = served
    already = before.total("serve_app_resumed_streams_total", replica=survivor.replica_id, place="engine")
    os.kill(victim.pid, signal.SIGKILL)
    await _end_of(streams)
    told(streams)
    after = await failover.scrape()
    resumed = after.total("serve_app_resumed_streams_total", replica=survivor.replica_id, place="engine") - already
    assert resumed >= its_streams - 1, "all but what the victim's successor went on with"
    assert sum(stream.result.breaks > 0 for stream in streams) >= its_streams
    await failover.until_whole(WHOLE, without=[victim])
    await failover.until_idle(30.0)


async def test_a_killed_engine_and_then_the_router_lose_nothing(failover: ServedApp, told: Told) -> None:
    await failover.until_whole(WHOLE)
    streams = await _begin(failover, STREAMS)
    engine, *_ = await failover.replicas(ENGINE)
    router, *_ = await failover.replicas("Router")
    os.kill(engine.pid, signal.SIGKILL)
    await asyncio.sleep(1.5)
    os.kill(router.pid, signal.SIGKILL)
    await _end_of(streams)
    told(streams)
    await failover.until_whole(WHOLE, without=[engine, router])
    await failover.until_idle(30.0)


async def test_clients_that_come_back_at_any_router_get_exactly_the_rest(failover: ServedApp) -> None:
    await failover.until_whole(WHOLE)
    before = await failover.scrape()
    texts = await asyncio.gather(*(_with_cuts(failover, every=9 + number) for number in range(STREAMS)))
    after = await failover.scrape()
    name = "serve_app_resumed_streams_total"
    places = {p: after.total(name, place=p) - before.total(name, place=p) for p in ("here", "router", "engine")}
    print(json.dumps({"test": "cuts", "streams": STREAMS, **places}))
    assert texts == [(expected, expected) for _, expected in texts]
    assert places["here"] > 0 and places["router"] > 0 and places["engine"] == 0
    outcomes = "serve_app_requests_total"
    completed = after.total(outcomes, outcome="completed") - before.total(outcomes, outcome="completed")
    assert completed == STREAMS == after.total(outcomes) - before.total(outcomes)


async def test_a_stream_that_nobody_comes_back_to_is_cancelled_by_its_owner_from_any_router(
    failover: ServedApp,
) -> None:
    await failover.until_whole(WHOLE)
    await failover.until_idle(10.0)
    url, body = f"{failover.url}/v1/chat/completions", {**chat("steady", 1000), "stream": True}
    async with failover.http.stream("POST", url, json=body, headers={"X-Stream-Resume": "true"}) as response:
        assert response.status_code == 200, await response.aread()
        stream_id = response.headers["x-stream-id"]
    await failover.until_generating(1)
    await asyncio.sleep(2.0)
    assert await failover.generations() > 0, "it goes on with nobody reading"
    for _ in range(6):  # whichever routers are asked
        answer = await failover.http.delete(f"{failover.url}/v1/streams/{stream_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    await failover.until_idle(5.0)
    other = await failover.http.get(f"{failover.url}/v1/streams/{stream_id}", headers={"Authorization": "Bearer other"})
    assert other.status_code == 404


async def _with_cuts(app: ServedApp, every: int) -> tuple[str, str]:
    """The text of an answer whose connection is closed after each `every` events, and the text that it should be."""
    number = next(_numbers)
    body = chat("steady", TOKENS, f"Story number {number}.", temperature=1.0, seed=number)
    text, last_id, done = "", None, False
    while not done:
        headers = {"X-Stream-Resume": "true", **TENANT, **({} if last_id is None else {"Last-Event-ID": last_id})}
        async with (
            httpx.AsyncClient(timeout=30.0, trust_env=False) as client,
            client.stream(
                "POST", f"{app.url}/v1/chat/completions", json={**body, "stream": True}, headers=headers
            ) as response,
        ):
            assert response.status_code == 200, await response.aread()
            events, event_id, content = 0, None, ""
            async for line in response.aiter_lines():
                if line.startswith("id: "):
                    event_id = line.removeprefix("id: ")
                elif line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    document = json.loads(line.removeprefix("data: "))
                    assert "error" not in document, document
                    content = "".join(choice["delta"].get("content") or "" for choice in document["choices"])
                elif not line and event_id is not None:
                    text, last_id, content, event_id = text + content, event_id, "", None
                    events += 1
                    if events == every:
                        break
    answer = whole_answer(_ENGINE_CONFIG, body)
    return text, answer.text


def _expected(stream: _Stream) -> str:
    return whole_answer(_ENGINE_CONFIG, stream.body).text


async def _begin(app: ServedApp, count: int) -> list[_Stream]:
    """Streams that are in the middle of their answers."""
    streams = [_Stream(app) for _ in range(count)]

    async def all_have_text() -> bool:
        return all(stream.result.answer.text for stream in streams)

    await eventually_async(all_have_text, 15.0, "all streams have begun")
    assert not any(stream.task.done() for stream in streams)
    return streams


async def _busiest_first(app: ServedApp) -> tuple[Scrape, list[tuple[Replica, float]]]:
    """A page that shows all `STREAMS` streams, and each router with how many are its own."""
    routers = await app.replicas("Router")
    page = await app.scrape()

    def of(router: Replica) -> float:
        return page.total("serve_app_concurrent_streams", replica=router.replica_id)

    async def all_are_shown() -> bool:
        nonlocal page
        page = await app.scrape()
        return sum(map(of, routers)) == STREAMS

    await eventually_async(all_are_shown, 3.0, f"the page shows {STREAMS} streams")
    return page, sorted(((router, of(router)) for router in routers), key=lambda one: -one[1])


async def _end_of(streams: Sequence[_Stream]) -> None:
    await asyncio.gather(*(stream.task for stream in streams))
