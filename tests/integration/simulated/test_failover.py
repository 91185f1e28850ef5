"""Replicas that die, fall silent or are replaced under load: every stream goes on, without a token lost or repeated.

The simulated engine's tokens are a function of prompt, seed and position, so each answer is known beforehand.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from serve_app.engine.simulated.config import SimulatedEngineConfig
from tests.integration.simulated.applications import SIMULATED, STEADY
from tests.support.applications import Config
from tests.support.polling import eventually_async
from tests.support.scrape import Scrape
from tests.support.serve_cluster import Replica, ServeCluster
from tests.support.served_app import ServedApp, chat
from tests.support.simulated_answers import difference, whole_answer
from tests.support.sse_client import StreamedAnswer

ENGINE = "Engine-steady"
WHOLE = {"Router": 2, ENGINE: 3}
STREAMS = 50
TOKENS = 80
"""Eight seconds."""
NOTICED_WITHIN_S = 3.5 + 2.5
"""Three seconds of silence and a sweep; the rest is for a machine with more processes than cores."""

_ENGINE_CONFIG = SimulatedEngineConfig.model_validate(STEADY["engine"])
_numbers = itertools.count(1)


class _Stream:
    """A stream that is being read, with a prompt and a seed of its own."""

    def __init__(self, app: ServedApp, tokens: int) -> None:
        number = next(_numbers)
        story = f"Tell me story number {number}."
        self.body = chat("steady", tokens, story, temperature=1.0, seed=number, logprobs=True)
        self.answer = StreamedAnswer()
        self.task = asyncio.create_task(app.stream(self.body, self.answer))

    @property
    def lost(self) -> bool:
        """Whether the client saw it break."""
        return self.task.done() and self.answer.failed_visibly


Told = Callable[[Sequence[_Stream], int], None]


@pytest.fixture
def told(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Told:
    """Asserts that all streams got the whole answer, and only it, however often they were `moved`; prints counts."""

    def tell(streams: Sequence[_Stream], moved: int) -> None:
        lost = repeated = wrong_texts = 0
        for stream in streams:
            expected = whole_answer(_ENGINE_CONFIG, stream.body)
            found = difference(expected.tokens, stream.answer.tokens)
            lost, repeated = lost + found.lost, repeated + found.repeated
            wrong_texts += stream.answer.text != expected.text
        counts = {
            "streams": len(streams),
            "finished": sum(stream.answer.complete for stream in streams),
            "lost_tokens": lost,
            "repeated_tokens": repeated,
            "wrong_texts": wrong_texts,
            "moved": moved,
            "longest_silence_s": round(max(stream.answer.longest_silence_s for stream in streams), 2),
        }
        print(json.dumps({"test": request.node.name, **counts}))
        for name, value in counts.items():
            record_property(name, value)
        failed = [stream.answer.error or stream.answer.broken for stream in streams if not stream.answer.complete]
        assert not failed, failed
        assert (lost, repeated, wrong_texts) == (0, 0, 0)

    return tell


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes to be continued at the end of the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def test_killed_engine_costs_fifty_streams_over_two_routers_nothing(failover: ServedApp, told: Told) -> None:
    await failover.until_whole(WHOLE)
    before = await failover.scrape()
    streams = await _begin(failover, STREAMS)
    victim = await _busiest_engine(failover)
    os.kill(victim.pid, signal.SIGKILL)
    await _end_of(streams)
    after = await failover.scrape()
    told(streams, _moved(before, after))
    for router in await failover.replicas("Router"):
        assert _moved(before, after, reason="engine_lost", replica=router.replica_id) > 0, "both had streams there"
    await failover.until_whole(WHOLE, without=[victim])


async def test_streams_go_on_when_all_engines_were_killed_and_have_successors(failover: ServedApp, told: Told) -> None:
    await failover.until_whole(WHOLE)
    before = await failover.scrape()
    streams = await _begin(failover, STREAMS)
    victims = await failover.replicas(ENGINE)
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    await _end_of(streams)
    moved = _moved(before, await failover.scrape(), reason="engine_lost")
    told(streams, moved)
    assert moved >= STREAMS
    await failover.until_whole(WHOLE, without=victims)


async def test_stopped_engine_is_noticed_by_its_silence_and_its_late_tokens_are_void(
    failover: ServedApp, told: Told, stopped: list[int]
) -> None:
    await failover.until_whole(WHOLE)
    before = await failover.scrape()
    streams = await _begin(failover, STREAMS)
    victim = await _busiest_engine(failover)
    os.kill(victim.pid, signal.SIGSTOP)
    stopped.append(victim.pid)
    received = [len(stream.answer.chunks) for stream in streams]

    async def all_go_on() -> bool:
        return all(len(stream.answer.chunks) > count + 2 for stream, count in zip(streams, received, strict=True))

    await eventually_async(all_go_on, NOTICED_WITHIN_S, "its streams go on elsewhere")
    assert not any(stream.task.done() for stream in streams), "late tokens would meet streams that are over"
    os.kill(victim.pid, signal.SIGCONT)
    stopped.clear()
    await _end_of(streams)
    after = await failover.scrape()
    moved = _moved(before, after, reason="engine_lost")
    told(streams, moved)
    assert moved > 0
    assert after.total("serve_app_channel_silent_engines_total") > before.total(
        "serve_app_channel_silent_engines_total"
    )
    await _until_used(failover, victim)
    assert victim in await failover.replicas(ENGINE), "it was not replaced"


async def test_rolling_update_of_engines_under_load_hands_long_streams_over(
    failover: ServedApp, rollout: _Rollout, told: Told
) -> None:
    await failover.until_whole(WHOLE)
    before = await failover.scrape()
    streams = await _replace_under_load(failover, rollout, [ENGINE])
    moved = _moved(before, await failover.scrape(), reason="draining")
    told(streams, moved)
    assert moved > 0, "streams that outlast the farewell of their replica"


@pytest.mark.parametrize("replaced", [["Router"], ["Router", ENGINE]], ids=["routers", "routers and engines"])
async def test_rolling_update_of_routers_under_load_fails_no_request(
    failover: ServedApp, rollout: _Rollout, told: Told, replaced: list[str]
) -> None:
    await failover.until_whole(WHOLE)
    told(await _replace_under_load(failover, rollout, replaced), 0)


async def test_killed_router_breaks_its_own_streams_and_frees_their_places(failover: ServedApp, told: Told) -> None:
    await failover.until_whole(WHOLE)
    streams = await _begin(failover, 24)
    victim, survivor = await failover.replicas("Router")
    surviving = (await failover.scrape()).total("serve_app_concurrent_streams", replica=survivor.replica_id)
    assert 0 < surviving < len(streams)
    os.kill(victim.pid, signal.SIGKILL)
    killed_at = time.monotonic()

    async def only_the_rest_runs() -> bool:
        return await _generations(failover) == surviving

    await eventually_async(only_the_rest_runs, NOTICED_WITHIN_S, f"{surviving} generations are left")
    await _end_of(streams)
    broken = [stream for stream in streams if stream.lost]
    assert len(broken) == len(streams) - surviving
    assert all(stream.answer.text for stream in broken), "they broke in the middle"
    assert max(stream.answer.ended_at for stream in broken) - killed_at <= NOTICED_WITHIN_S
    told([stream for stream in streams if not stream.lost], 0)
    await failover.until_whole(WHOLE, without=[victim])


class _Rollout:
    """Has Serve replace the replicas of single deployments."""

    def __init__(self, cluster: ServeCluster) -> None:
        self._cluster = cluster
        self._config: Config = copy.deepcopy(SIMULATED)

    def replace(self, deployments: Sequence[str]) -> None:
        """Change an option of the application's deployments that only a new process can take on."""
        (application,) = (each for each in self._config["applications"] if each["name"] == "failover")
        for options in application["deployments"]:
            if options["name"] in deployments:
                options["ray_actor_options"]["num_cpus"] += 0.001
        self._cluster.deploy(self._config)

    def undo(self) -> None:
        self._cluster.deploy(SIMULATED)


@pytest.fixture(scope="module")
def rollout(simulated: ServeCluster) -> Iterator[_Rollout]:
    rollout = _Rollout(simulated)
    yield rollout
    rollout.undo()


class _Load:
    """Clients that each send one request after the other: short ones, and some that outlast a replica's farewell."""

    def __init__(self, app: ServedApp, short: int, long: int) -> None:
        self._app = app
        self._stopped = False
        self._streams: list[_Stream] = []
        lengths = [10] * short + [TOKENS] * long
        self._clients = [asyncio.create_task(self._ask_again_and_again(tokens)) for tokens in lengths]

    async def _ask_again_and_again(self, tokens: int) -> None:
        while not self._stopped:
            stream = _Stream(self._app, tokens)
            self._streams.append(stream)
            await stream.task

    async def stop(self) -> list[_Stream]:
        """All streams, once the last ones have ended."""
        self._stopped = True
        await asyncio.gather(*self._clients)
        return self._streams


async def _replace_under_load(app: ServedApp, rollout: _Rollout, deployments: Sequence[str]) -> list[_Stream]:
    """All streams that were asked for while the deployments' replicas were replaced, once they have ended."""
    old = [replica for name in deployments for replica in await app.replicas(name)]
    load = _Load(app, short=8, long=6)
    await asyncio.to_thread(rollout.replace, deployments)
    await app.until_whole(WHOLE, without=old)
    return await load.stop()


async def _begin(app: ServedApp, count: int) -> list[_Stream]:
    """Streams that are in the middle of their answers."""
    streams = [_Stream(app, TOKENS) for _ in range(count)]

    async def all_have_text() -> bool:
        return all(stream.answer.text for stream in streams)

    await eventually_async(all_have_text, 15.0, "all streams have begun")
    assert not any(stream.task.done() for stream in streams)
    return streams


async def _end_of(streams: Sequence[_Stream]) -> None:
    await asyncio.wait([stream.task for stream in streams])


def _moved(before: Scrape, after: Scrape, **labels: str) -> int:
    name = "serve_app_dispatch_requeues_total"
    return int(after.total(name, **labels) - before.total(name, **labels))


async def _by_engine(app: ServedApp) -> dict[str, float]:
    """Generations that each engine replica runs, by its id."""
    page = await app.scrape()
    name = "serve_app_engine_generations"
    return {engine: page.largest(name, engine=engine) for engine in page.labels("engine", name)}


async def _generations(app: ServedApp) -> float:
    return sum((await _by_engine(app)).values())


async def _busiest_engine(app: ServedApp) -> Replica:
    running = await _by_engine(app)
    return max(await app.replicas(ENGINE), key=lambda replica: running[replica.replica_id])


async def _until_used(app: ServedApp, engine: Replica) -> None:
    """Wait until the replica runs generations again."""
    load = _Load(app, short=8, long=0)

    async def it_runs() -> bool:
        return (await _by_engine(app)).get(engine.replica_id, 0) > 0

    try:
        await eventually_async(it_runs, 30.0, "the replica is used again")
    finally:
        await load.stop()
