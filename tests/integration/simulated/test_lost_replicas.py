"""Replicas that die, stop or fall silent: streams fail where the client sees it, and the application recovers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.polling import eventually_async
from tests.support.serve_cluster import Replica
from tests.support.served_app import ServedApp, chat
from tests.support.sse_client import StreamedAnswer

NOTICED_WITHIN_S = 3.5 + 2.5
"""Three seconds of silence and a sweep; the rest is for a machine with more processes than cores."""
REPLACED_WITHIN_S = 60.0
LONG = 1500
"""Tokens that take half a minute: longer than any loss goes unnoticed."""


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes to be continued at the end of the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def test_killed_engine_fails_its_streams_visibly_and_is_replaced(pair: ServedApp) -> None:
    await _until_whole(pair)
    streams = await _start_streams(pair, 8)
    victim = (await _replicas(pair, "Engine-alpha"))[0]
    os.kill(victim.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    failed = await _until_some_failed(streams, killed_at)
    assert 0 < len(failed) < 8, "only the streams of the killed replica may fail"
    for answer in failed:
        assert answer.text, "it failed in the middle"
        assert answer.error is not None, f"no error event, but {answer.broken!r}"
        assert answer.error["code"] in ("engine_lost", "channel_lost")
    assert (await pair.post(chat("alpha", 5))).status_code == 200, "the other replica serves"
    await _end(streams)
    await _until_whole(pair, without=victim)
    answers = await asyncio.gather(*(pair.stream(chat("alpha", 20)) for _ in range(16)))
    assert all(answer.complete for answer in answers)


async def test_stopped_engine_is_noticed_by_its_silence_and_used_again(pair: ServedApp, stopped: list[int]) -> None:
    await _until_whole(pair)
    before = (await pair.scrape()).total("serve_app_channel_silent_engines_total")
    streams = await _start_streams(pair, 8)
    victim = (await _replicas(pair, "Engine-alpha"))[0]
    os.kill(victim.pid, signal.SIGSTOP)
    stopped.append(victim.pid)
    stopped_at = time.monotonic()
    failed = await _until_some_failed(streams, stopped_at)
    assert {answer.error["code"] for answer in failed if answer.error} == {"channel_lost"}
    assert all(answer.error for answer in failed)
    others = await asyncio.gather(*(pair.stream(chat("alpha", 10)) for _ in range(4)))
    assert all(answer.complete for answer in others), "the other replica serves"
    os.kill(victim.pid, signal.SIGCONT)
    stopped.clear()
    await _end(streams)
    await pair.until_idle(10.0)
    assert (await pair.scrape()).total("serve_app_channel_silent_engines_total") > before
    again = await _start_streams(pair, 8)
    await _both_engines_run(pair)
    await _end(again)
    assert victim in await _replicas(pair, "Engine-alpha"), "it was not replaced"


async def test_killed_router_leaves_no_generation_behind(pair: ServedApp) -> None:
    await _until_whole(pair)
    streams = await _start_streams(pair, 8)
    victim = (await _replicas(pair, "Router"))[0]
    os.kill(victim.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    failed = await _until_some_failed(streams, killed_at)
    assert all(answer.text for answer in failed)
    surviving = 8 - len(failed)

    async def only_the_rest_runs() -> bool:
        page = await pair.scrape()
        engines = page.labels("engine", "serve_app_engine_generations", model="alpha")
        return sum(page.largest("serve_app_engine_generations", engine=engine) for engine in engines) == surviving

    await eventually_async(only_the_rest_runs, NOTICED_WITHIN_S, f"{surviving} generations are left")
    await _end(streams)
    await _until_whole(pair, without=victim)
    answers = await asyncio.gather(*(pair.stream(chat("alpha", 20)) for _ in range(16)))
    assert all(answer.complete for answer in answers)


class _Running:
    """A stream that is being read."""

    def __init__(self, app: ServedApp) -> None:
        self.answer = StreamedAnswer()
        self.task = asyncio.create_task(app.stream(chat("alpha", LONG), self.answer))


async def _start_streams(app: ServedApp, count: int) -> list[_Running]:
    """Streams that are in the middle of their answers, on both engine replicas."""
    streams = [_Running(app) for _ in range(count)]

    async def all_have_text() -> bool:
        return all(stream.answer.text for stream in streams)

    await eventually_async(all_have_text, 15.0, "all streams have begun")
    await _both_engines_run(app)
    return streams


async def _both_engines_run(app: ServedApp) -> None:
    async def both_run() -> bool:
        page = await app.scrape()
        engines = page.labels("engine", "serve_app_engine_generations", model="alpha")
        return len(engines) == 2 and all(page.largest("serve_app_engine_generations", engine=e) for e in engines)

    await eventually_async(both_run, 10.0, "both engine replicas run something")


async def _until_some_failed(streams: list[_Running], lost_at: float) -> list[StreamedAnswer]:
    """The answers that ended after a loss at `lost_at`, once they have all ended, and visibly."""
    await asyncio.sleep(lost_at + NOTICED_WITHIN_S - time.monotonic())
    ended = [stream.answer for stream in streams if stream.task.done()]
    assert ended, f"the loss went unnoticed for {NOTICED_WITHIN_S} s"
    assert all(answer.failed_visibly for answer in ended), "a stream ended silently in the middle"
    latest = max(answer.ended_at for answer in ended) - lost_at
    assert latest <= NOTICED_WITHIN_S
    await _rest_goes_on([stream.answer for stream in streams if not stream.task.done()])
    return ended


async def _rest_goes_on(answers: list[StreamedAnswer]) -> None:
    received = [len(answer.chunks) for answer in answers]

    async def all_got_more() -> bool:
        return all(len(answer.chunks) > count for answer, count in zip(answers, received, strict=True))

    await eventually_async(all_got_more, 3.0, "streams of replicas that live go on")


async def _end(streams: list[_Running]) -> None:
    for stream in streams:
        stream.task.cancel()
    await asyncio.wait([stream.task for stream in streams])


async def _replicas(app: ServedApp, deployment: str) -> list[Replica]:
    return await asyncio.to_thread(app.cluster.replicas, app.name, deployment)


async def _until_whole(app: ServedApp, without: Replica | None = None) -> None:
    """Wait until two routers and two engine replicas of alpha run and know each other, `without` this one."""

    async def whole() -> bool:
        running = {name: await _replicas(app, name) for name in ("Router", "Engine-alpha")}
        if any(len(found) != 2 or without in found for found in running.values()):
            return False
        page = await app.scrape()
        for router in running["Router"]:
            for engine in running["Engine-alpha"]:
                labels = {"replica": router.replica_id, "engine": engine.replica_id}
                if page.total("serve_app_engine_ready", **labels) != 1:
                    return False
        return True

    await eventually_async(whole, REPLACED_WITHIN_S, "two routers know two engine replicas")
