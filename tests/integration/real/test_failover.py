"""A killed replica of the real engine in the middle of its streams: the other one goes on with the same words."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from tests.integration.real.questions import MODEL
from tests.support.applications import Config, application, shipped_config
from tests.support.polling import eventually_async
from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import ServedApp, chat
from tests.support.simulated_answers import difference
from tests.support.sse_client import StreamedAnswer

NEAR_TIE = 1e-3
"""Gap of the two largest logits below which rounding may decide, which depends on what else is in the batch."""

TINY = application(
    "tiny",
    [
        {
            "id": "tiny",
            "deployment": "Engine-tiny",
            "max_concurrency": 64,
            "engine": {
                "kind": "vllm",
                "model": "models/tiny-smollm2",
                "load_format": "dummy",
                "dtype": "float32",
                "max_model_len": 1024,
                "kv_cache_gib": 0.25,
                "cpu_threads": 1,
            },
        }
    ],
    replicas={"Engine-tiny": 2},
)


def _twins() -> Config:
    """The shipped application with a second engine replica, beside a tiny one."""
    config = copy.deepcopy(shipped_config("app.yaml"))
    (shipped,) = config["applications"]
    (engine,) = (each for each in shipped["deployments"] if each["name"] == "Engine-smollm2")
    engine["num_replicas"] = 2
    config["applications"].append(TINY)
    return config


@pytest.fixture(scope="module")
def twins(cluster: ServeCluster) -> ServeCluster:
    """The cluster, serving two replicas of each model. It stays so: this is the last module that uses it."""
    cluster.serve(_twins())
    return cluster


@pytest.fixture
async def smollm2(twins: ServeCluster) -> AsyncIterator[ServedApp]:
    async with ServedApp(twins, "serve_app", "") as app:
        yield app


@pytest.fixture
async def tiny(twins: ServeCluster) -> AsyncIterator[ServedApp]:
    async with ServedApp(twins, "tiny", "/tiny") as app:
        yield app


@pytest.fixture
def told(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Prints counts, and keeps them for the report."""

    def tell(**counts: object) -> None:
        print(json.dumps({"test": request.node.name, **counts}))
        for name, value in counts.items():
            record_property(name, value)

    return tell


async def test_killed_engine_of_smollm2_leaves_the_text_as_it_would_have_been(
    smollm2: ServedApp, told: Callable[..., None]
) -> None:
    topics = ("the sea", "a clockmaker", "rivers in winter", "the number seven")
    bodies = [_greedy(MODEL, 60, f"Tell me about {topic}.") for topic in topics]
    await _check(smollm2, "Engine-smollm2", bodies, told)


async def test_killed_engine_with_fifty_streams_loses_and_repeats_no_token(
    tiny: ServedApp, told: Callable[..., None]
) -> None:
    # Long enough that the engines, which are ahead of the clients, are not done when some of these have seen something.
    bodies = [_greedy("tiny", 240, f"Tell me story number {number}.") for number in range(50)]
    await _check(tiny, "Engine-tiny", bodies, told)


def _greedy(model: str, tokens: int, content: str) -> dict[str, Any]:
    return chat(model, tokens, content, temperature=0, logprobs=True, top_logprobs=2)


async def _check(app: ServedApp, engine: str, bodies: Sequence[dict[str, Any]], told: Callable[..., None]) -> None:
    """Kill engine replicas until one was in the middle of an answer: with few streams it may have begun none yet."""
    for _ in range(3):
        if await _kill_once(app, engine, bodies, told) > 0:
            return
    raise AssertionError("no killed replica was in the middle of an answer")


async def _kill_once(app: ServedApp, engine: str, bodies: Sequence[dict[str, Any]], told: Callable[..., None]) -> int:
    """Ask twice, kill an engine replica in the middle of the second answers, and compare them with the first.

    Returns how many streams another replica went on with.
    """
    await app.until_whole({"Router": 1, engine: 2})
    uncut = [_Uncut(reply.json()) for reply in await asyncio.gather(*(app.post(body) for body in bodies))]
    replicas = await app.replicas(engine)
    before = await app.scrape()
    answers = [StreamedAnswer() for _ in bodies]
    tasks = [asyncio.create_task(app.stream(body, answer)) for body, answer in zip(bodies, answers, strict=True)]

    async def some_have_begun() -> bool:
        # What the client has seen: the engines are ahead of it.
        return sum(bool(answer.tokens) for answer in answers) >= len(answers) / 4

    await eventually_async(some_have_begun, 30.0, "a quarter of the streams have begun")
    page = await app.scrape()
    # One of them may serve nothing: on two cores a replica can be slow enough to be ejected.
    victim = max(replicas, key=lambda one: page.total("serve_app_engine_in_flight", engine=one.replica_id))
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.gather(*tasks)
    after = await app.scrape()
    name = "serve_app_failovers_total"
    continued = after.total(name, reason="engine_lost") - before.total(name, reason="engine_lost")
    ends = [whole.parts_from(joined) for whole, joined in zip(uncut, answers, strict=True)]
    compared = list(zip(bodies, uncut, answers, ends, strict=True))
    counts = [difference(whole.tokens[:end], joined.tokens[:end]) for _, whole, joined, end in compared]
    told(
        streams=len(answers),
        finished=sum(answer.complete for answer in answers),
        continued=int(continued),
        lost_tokens=sum(count.lost for count in counts),
        repeated_tokens=sum(count.repeated for count in counts),
        equal_texts=sum(whole.text == joined.text for _, whole, joined, _ in compared),
        near_ties=sum(end is not None for end in ends),
        longest_silence_s=round(max(answer.longest_silence_s for answer in answers), 2),
    )
    assert all(answer.complete for answer in answers), [answer.error or answer.broken for answer in answers]
    for body, whole, joined, end in compared:
        assert len(joined.tokens) == body["max_tokens"]
        assert joined.tokens[:end] == whole.tokens[:end]
        assert end is not None or joined.text == whole.text
    return int(continued)


class _Uncut:
    """An answer that nothing interrupted."""

    def __init__(self, reply: dict[str, Any]) -> None:
        (choice,) = reply["choices"]
        self.text: str = choice["message"]["content"]
        self._logprobs: list[dict[str, Any]] = choice["logprobs"]["content"]
        self.tokens: list[str] = [item["token"] for item in self._logprobs]

    def parts_from(self, joined: StreamedAnswer) -> int | None:
        """The first token at which `joined` differs, if the model itself could not decide there; None otherwise."""
        for place, (item, token) in enumerate(zip(self._logprobs, joined.tokens, strict=False)):
            if item["token"] != token:
                first, second = (alternative["logprob"] for alternative in item["top_logprobs"][:2])
                return place if first - second < NEAR_TIE else None
        return None
