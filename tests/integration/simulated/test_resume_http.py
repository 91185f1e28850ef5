"""Streams over HTTP that are cut at every place, or lose their router or engine: the client ends with the same answer.

The simulated engine's tokens are a function of prompt, seed and position, so each answer is known beforehand.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpx
import pytest

from serve_app.engine.simulated.config import SimulatedEngineConfig
from tests.integration.simulated.applications import PAIR, STEADY
from tests.support.fault_proxy import CutPoint, FaultProxy, after_bytes, after_nth, never
from tests.support.polling import eventually_async
from tests.support.resuming_reader import ResumedAnswer, read_resuming
from tests.support.served_app import API_KEY, ServedApp, chat
from tests.support.simulated_answers import difference, whole_answer

POSITIONS = 100
AT_ONCE = 10
STREAMS = 200
STREAM_TOKENS = 60
PATH = "/v1/chat/completions"
EVENT_END = b"\n\n"
KEYED = {"Authorization": f"Bearer {API_KEY}"}
ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""

_ENGINES = {
    each["id"]: SimulatedEngineConfig.model_validate(each["engine"]) for each in (*PAIR["args"]["models"], STEADY)
}
_numbers = itertools.count(1)


class _Stream:
    """A stream with a prompt and a seed of its own, read by a client that resumes it, through a proxy that cuts it."""

    def __init__(self, app: ServedApp, model: str, tokens: int, plans: Sequence[CutPoint] = (never,)) -> None:
        number = next(_numbers)
        self.body = chat(model, tokens, f"Tell me tale number {number}.", temperature=1.0, seed=number, logprobs=True)
        self.body["stream_options"] = {"include_usage": True}
        self.result = ResumedAnswer()
        self.cuts = 0
        self.task = asyncio.create_task(self._read(app, plans))

    async def _read(self, app: ServedApp, plans: Sequence[CutPoint]) -> None:
        target = urlsplit(app.url)
        assert target.hostname is not None and target.port is not None
        async with FaultProxy(target.hostname, target.port, plans) as proxy:
            url = f"http://127.0.0.1:{proxy.port}{target.path}{PATH}"
            try:
                await read_resuming(url, self.body, KEYED, self.result)
            finally:
                self.cuts = proxy.cuts


Told = Callable[[Sequence[_Stream]], None]


@pytest.fixture
def told(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Told:
    """Asserts that all streams got the whole answer, and only it; prints counts."""

    def tell(streams: Sequence[_Stream]) -> None:
        lost = repeated = equal = 0
        for stream in streams:
            expected = whole_answer(_ENGINES[stream.body["model"]], stream.body)
            found = difference(expected.tokens, stream.result.answer.tokens)
            lost, repeated = lost + found.lost, repeated + found.repeated
            equal += stream.result.answer.text == expected.text
        counts = {
            "streams": len(streams),
            "equal_texts": equal,
            "lost_tokens": lost,
            "repeated_tokens": repeated,
            "cuts": sum(stream.cuts for stream in streams),
            "breaks": sum(stream.result.breaks for stream in streams),
            "refusals": dict(sum((stream.result.refusals for stream in streams), Counter())),
            "failures": dict(sum((stream.result.failures for stream in streams), Counter())),
        }
        print(json.dumps({"test": request.node.name, **counts}))
        for name, value in counts.items():
            record_property(name, value)
        assert (equal, lost, repeated) == (len(streams), 0, 0)
        for stream in streams:
            _is_one_answer(stream)

    return tell


def _is_one_answer(stream: _Stream) -> None:
    chunks, tokens = stream.result.answer.chunks, stream.body["max_tokens"]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    roles = [chunk for chunk in chunks if chunk["choices"] and "role" in chunk["choices"][0]["delta"]]
    assert len(roles) == 1
    assert chunks[-1]["usage"]["completion_tokens"] == tokens
    assert chunks[-1]["usage"]["prompt_tokens"] > 0
    assert stream.result.position == tokens


@pytest.mark.parametrize("further_bytes", [0, 60], ids=["after each token", "within each token"])
async def test_cut_at_every_position_of_an_answer(pair: ServedApp, told: Told, further_bytes: int) -> None:
    """The role's event comes first, so that position N is after N + 1 events."""
    streams = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(position: int) -> None:
        async with turns:
            stream = _Stream(pair, "beta", POSITIONS, [after_nth(EVENT_END, position + 1, further_bytes), never])
            streams.append(stream)
            await stream.task

    await asyncio.gather(*(one(position) for position in range(POSITIONS)))
    told(streams)
    assert [stream.cuts for stream in streams] == [1] * POSITIONS
    assert [stream.result.connections for stream in streams] == [2] * POSITIONS


async def test_cut_after_the_last_token_but_before_the_end(pair: ServedApp, told: Told) -> None:
    plans = [after_nth(b'"finish_reason":"', 1), after_nth(b"[DO", 1), never]
    stream = _Stream(pair, "beta", 20, plans)
    await stream.task
    told([stream])
    assert stream.result.breaks == 2


async def test_two_hundred_streams_with_cuts_at_random_places(failover: ServedApp, told: Told) -> None:
    random_places = random.Random(7)

    def plan() -> CutPoint:
        return after_nth(EVENT_END, random_places.randint(1, STREAM_TOKENS // 2), random_places.randint(0, 90))

    streams = [_Stream(failover, "steady", STREAM_TOKENS, [*(plan() for _ in range(3)), never]) for _ in range(STREAMS)]
    await asyncio.wait([stream.task for stream in streams])
    told(streams)
    assert sum(stream.cuts for stream in streams) >= STREAMS
    await failover.until_idle(10.0)


async def test_killed_router_costs_its_streams_nothing(failover: ServedApp, told: Told) -> None:
    await failover.until_whole({"Router": 2, "Engine-steady": 3})
    streams = await _begun(failover, 24)
    page = await failover.scrape()
    reading = {
        replica: page.total("serve_app_concurrent_streams", replica=replica.replica_id)
        for replica in await failover.replicas("Router")
    }
    victim = max(reading, key=lambda replica: reading[replica])
    assert reading[victim] > 0
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.wait([stream.task for stream in streams])
    told(streams)
    assert sum(stream.result.breaks > 0 for stream in streams) >= reading[victim]
    await failover.until_whole({"Router": 2, "Engine-steady": 3}, without=[victim])


async def test_killed_engine_costs_streams_that_are_cut_as_well_nothing(failover: ServedApp, told: Told) -> None:
    await failover.until_whole({"Router": 2, "Engine-steady": 3})
    streams = await _begun(failover, 24, [after_nth(EVENT_END, 30), never])
    page = await failover.scrape()
    running = {
        replica: page.largest("serve_app_engine_generations", engine=replica.replica_id)
        for replica in await failover.replicas("Engine-steady")
    }
    victim = max(running, key=lambda replica: running[replica])
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.wait([stream.task for stream in streams])
    told(streams)
    assert sum(stream.cuts for stream in streams) == len(streams)
    await failover.until_whole({"Router": 2, "Engine-steady": 3}, without=[victim])


async def test_a_reset_connection_that_nobody_means_to_resume_ends_the_generation(pair: ServedApp) -> None:
    target = urlsplit(pair.url)
    assert target.hostname is not None and target.port is not None
    body = {**chat("alpha", 4000), "stream": True}
    async with FaultProxy(target.hostname, target.port, [after_nth(EVENT_END, 5)]) as proxy:
        with pytest.raises(httpx.HTTPError):
            await pair.http.post(f"http://127.0.0.1:{proxy.port}{target.path}{PATH}", json=body)
        assert proxy.cuts == 1
        await pair.until_idle(ABORTED_WITHIN_S)


async def test_generation_goes_on_without_a_reader_until_it_is_cancelled(pair: ServedApp) -> None:
    body = chat("alpha", 4000)
    async with pair.http.stream(
        "POST", pair.url + PATH, json={**body, "stream": True}, headers={"X-Stream-Resume": "true"}
    ) as response:
        stream_id = response.headers["x-stream-id"]
        await anext(response.aiter_lines())
    await asyncio.sleep(2.0)
    assert await pair.generations() > 0
    for _ in range(4):  # at any router
        answer = await pair.http.delete(f"{pair.url}/v1/streams/{stream_id}")
        assert answer.json()["status"] == "cancelled"
    await pair.until_idle(ABORTED_WITHIN_S)
    ended = await pair.http.get(f"{pair.url}/v1/streams/{stream_id}", params={"offset": "3"})
    assert '"code":"stream_cancelled"' in ended.text


async def test_a_stream_is_read_from_any_offset_at_any_router(pair: ServedApp) -> None:
    stream = _Stream(pair, "beta", 20)
    await stream.task
    expected = whole_answer(_ENGINES["beta"], stream.body)
    url = f"{pair.url}/v1/streams/{stream.result.stream_id}"
    whole = _texts((await pair.http.get(url)).text)
    assert "".join(text for _, text in whole) == expected.text
    assert [position for position, _ in whole] == list(range(21))
    for offset in (*range(1, 21), *range(1, 21)):
        answer = await pair.http.get(url, params={"offset": str(offset)})
        assert _texts(answer.text) == whole[offset + 1 :]
    beyond = await pair.http.get(url, params={"offset": "21"})
    assert (beyond.status_code, beyond.json()["error"]["param"]) == (400, "offset")
    foreign = await pair.http.get(url, headers={"Authorization": "Bearer somebody-else"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "stream_not_found")


async def test_a_request_cut_before_its_first_id_is_not_computed_twice(pair: ServedApp) -> None:
    """The key alone finds it again, streamed or whole, at either router."""
    before = await pair.scrape()
    body = {**chat("beta", 50, temperature=1.0, seed=5), "stream": True}
    headers = {"Idempotency-Key": f"tale {os.getpid()}"}
    target = urlsplit(pair.url)
    assert target.hostname is not None and target.port is not None
    async with FaultProxy(target.hostname, target.port, [after_bytes(20)]) as proxy:
        with pytest.raises(httpx.HTTPError):
            await pair.http.post(f"http://127.0.0.1:{proxy.port}{target.path}{PATH}", json=body, headers=headers)
    answers = [await pair.http.post(pair.url + PATH, json=body, headers=headers) for _ in range(4)]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].text.endswith("data: [DONE]\n\n")
    conflict = await pair.http.post(pair.url + PATH, json={**body, "seed": 6}, headers=headers)
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "stream_conflict")
    after = await pair.scrape()
    assert after.total("serve_app_output_tokens_total") - before.total("serve_app_output_tokens_total") == 50


@pytest.mark.parametrize("path", ["/stream", "/v1/chat/completions/stream"])
async def test_the_source_documents_client_gets_its_answer_through_cuts(pair: ServedApp, path: str) -> None:
    for number in itertools.count():  # answers end where they like
        query = {"prompt": f"Tell me fable number {number}.", "model": "beta"}
        whole = await _tokens_with_retries(pair, path, {**query, "max_tokens": "41"}, [never])
        if len(whole) > 16:
            break
    cuts = [after_nth(EVENT_END, count, 20) for count in (1, 3, 7)]
    received = await _tokens_with_retries(pair, path, {**query, "max_tokens": "40"}, [*cuts, never])
    assert received[:40] == whole[:40]
    assert received[-1] == ""


def _texts(body: str) -> list[tuple[int, str]]:
    """Position and text of each event that has an id."""
    found = []
    for block in body.split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines[0].startswith("id: "):
            delta = json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"]
            found.append((int(lines[0].rpartition(".")[2]), delta["content"]))
    return found


async def _tokens_with_retries(
    app: ServedApp, path: str, query: dict[str, str], plans: Sequence[CutPoint]
) -> list[str]:
    """The document's `ResilientStreamClient`: it counts the frames that it has, and asks for the rest."""
    target = urlsplit(app.url)
    assert target.hostname is not None and target.port is not None
    received: list[str] = []
    async with FaultProxy(target.hostname, target.port, plans) as proxy:
        while True:
            params = {**query, "offset": str(len(received))}
            try:
                async with (
                    httpx.AsyncClient(timeout=20.0, trust_env=False) as client,
                    client.stream(
                        "GET", f"http://127.0.0.1:{proxy.port}{target.path}{path}", params=params
                    ) as response,
                ):
                    assert response.status_code == 200
                    async for line in response.aiter_lines():
                        if line == "data: [DONE]":
                            assert proxy.cuts == len(plans) - 1
                            return received
                        if line.startswith("data: "):
                            received.append(json.loads(line.removeprefix("data: "))["token"])
            except httpx.HTTPError:
                await asyncio.sleep(0.1)


async def _begun(app: ServedApp, count: int, plans: Sequence[CutPoint] = (never,)) -> list[_Stream]:
    """Streams that are in the middle of their answers."""
    streams = [_Stream(app, "steady", 80, plans) for _ in range(count)]

    async def all_have_text() -> bool:
        return all(stream.result.answer.text for stream in streams)

    await eventually_async(all_have_text, 15.0, "all streams have begun")
    return streams
