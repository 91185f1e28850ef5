"""Streams that go from router to router, and outlive their router and their engine, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from serve_app.core.errors import (
    DeadlineExceeded,
    StreamCancelled,
    StreamNotFound,
    StreamTakenOver,
)
from serve_app.core.events import StreamEvent
from tests.support.retained_reading import cut, error_of, live, tokens_of, total, virtual
from tests.support.retained_world import CHANNEL, KEY, World, read, request, text_of, whole

LONG = 3000
"""Tokens of an answer that takes 30 s."""
SOME_CUTS = (0, 1, 2, 5, 6, 7, 50, 99, 100)


# --- taken over by another router


@virtual
async def test_looking_up_leaves_a_stream_where_it_is():
    async with World() as world:
        reader = world["r0"].open(request(50))
        await read(reader, 10)
        answer = await world["r1"].look_up(KEY, "t")
        assert not answer.ended and text_of(answer.events) == whole(tokens_of(list(answer.events)))
        assert answer.request.retention == request().retention

        assert text_of(await read(reader)) == whole(50, 10)


@virtual
async def test_whoever_read_it_where_it_was_is_told_clearly():
    async with World() as world:
        old = world["r0"].open(request(200))
        begun = await read(old, 20)
        new = await world["r1"].resume(KEY, "t", 10)
        rest, error = await asyncio.gather(read(new), error_of(old))

        assert text_of(begun) == whole(20)
        assert text_of(rest) == whole(200, 10)
        assert isinstance(error, StreamTakenOver) and not error.retryable
        assert total(world, "serve_app_requests_total") == 1
        assert total(world, "serve_app_wasted_tokens_total", reason="taken_over") >= 23


@virtual
async def test_its_owner_has_given_its_part_up_before_another_router_goes_on():
    async with World(engines=1) as world:
        (engine,) = world.engines.values()
        await cut(world["r0"].open(request(200)), 20)
        most = 0
        reading = asyncio.create_task(read(await world["r1"].resume(KEY, "t", 20)))
        while not reading.done():
            most = max(most, engine.engine.running)
            await asyncio.sleep(0.005)

        assert text_of(await reading) == whole(200, 20)
        assert most == 1


@virtual
async def test_two_that_resume_at_two_routers_at_once_end_truthfully():
    async with World(routers=3) as world:
        for tried in range(20):
            key = f"{tried:032x}"
            begun = await cut(world["r0"].open(request(60, key)), tried)

            async def at(router: str, key: str = key, place: int = tried) -> list[StreamEvent] | Exception:
                events: list[StreamEvent] = []
                try:
                    reader = await world[router].resume(key, "t", place)
                    while (batch := await reader.next()) is not None:
                        events += batch
                except (StreamTakenOver, StreamNotFound) as ended:
                    assert text_of(events) == whole(place + tokens_of(events), place)
                    return ended
                return events

            results = await asyncio.gather(at("r1"), at("r2"))
            wholes = [result for result in results if not isinstance(result, Exception)]
            errors = [result for result in results if isinstance(result, Exception)]
            assert wholes and all(text_of(begun) + text_of(rest) == whole(60) for rest in wholes)
            assert all(isinstance(error, StreamTakenOver) for error in errors), errors
        assert total(world, "serve_app_requests_total", outcome="completed") == 20
        assert total(world, "serve_app_requests_total") == 20


@virtual
async def test_two_that_resume_at_one_router_at_once_both_get_the_rest():
    async with World() as world:
        await cut(world["r0"].open(request(60)), 10)
        both = await asyncio.gather(world["r1"].resume(KEY, "t", 10), world["r1"].resume(KEY, "t", 20))

        assert [text_of(await read(reader)) for reader in both] == [whole(60, 10), whole(60, 20)]


@virtual
async def test_who_leaves_while_it_is_taken_over_does_not_lose_it():
    async with World() as world:
        await cut(world["r0"].open(request(60)), 10)
        leaving = asyncio.create_task(world["r1"].resume(KEY, "t", 10))
        await asyncio.sleep(0.0015)  # r0 has given it up, and the answer is on its way
        leaving.cancel()
        await asyncio.sleep(0.1)

        assert text_of(await read(await world["r1"].resume(KEY, "t", 10))) == whole(60, 10)


@virtual
async def test_what_still_waits_is_taken_over_too():
    async with World() as world:
        for router in world.routers.values():
            router.lifecycle.replicas_listed("m", frozenset())
        await cut(world["r0"].open(request(30)), 0)
        reader = await world["r1"].resume(KEY, "t")
        assert reader.queue_position == 0
        for router in world.routers.values():
            router.lifecycle.replicas_listed("m", frozenset(world.engines))

        assert text_of(await read(reader)) == whole(30)
        assert total(world, "serve_app_requests_total") == 1


@virtual
async def test_time_that_has_passed_counts_for_the_deadline_after_a_takeover():
    async with World() as world:
        await cut(world["r0"].open(request(LONG, timeout_s=5.0)), 200)
        started = world.loop.time()
        reader = await world["r1"].resume(KEY, "t", 200)

        assert isinstance(await error_of(reader), DeadlineExceeded)
        assert 2.8 < world.loop.time() - started < 3.3


@virtual
async def test_the_log_tells_of_resumes_and_takeovers(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "serve_app.requests"):
        async with World() as world:
            await cut(world["r0"].open(request(60)), 10)
            await cut(await world["r1"].resume(KEY, "t", 10), 5)
            await read(await world["r1"].resume(KEY, "t", 15))
    first, second = [record for record in caplog.records if record.name == "serve_app.requests"]

    assert first.message == "stream handed over"
    assert second.message == "request settled"
    assert second.fields["taken_from"] == "router"  # type: ignore[attr-defined]  # set by the project's loggers
    assert second.fields["resumes"] == 2  # type: ignore[attr-defined]  # a log record's extra
    assert second.fields["output_tokens"] == 60  # type: ignore[attr-defined]  # a log record's extra
    assert second.fields["ttft_s"] is None  # type: ignore[attr-defined]  # a log record's extra


# --- deaths


@pytest.mark.parametrize("cancelled", [True, False])
@virtual
async def test_a_router_killed_at_any_token_loses_nothing(cancelled: bool):
    """Serve cancels the calls of a dead router in one mode, and lets them go on in the other."""
    for place in SOME_CUTS:
        async with World() as world:
            begun = await read(world["r0"].open(request(100)), place)
            await asyncio.sleep(0.005)
            await world.kill_router("r0", cancel_calls=cancelled)
            await asyncio.sleep(0.2)
            rest = await read(await world["r1"].resume(KEY, "t", place))

            assert text_of(begun) + text_of(rest) == whole(100), place
            assert world.routers["r1"].sample("serve_app_resumed_streams_total", place="engine") == 1
            assert world.routers["r1"].sample("serve_app_requests_total", outcome="completed") == 1
            await asyncio.sleep(1)
            assert world.running == 0


@pytest.mark.parametrize("cancelled", [True, False])
@virtual
async def test_what_an_engine_finished_after_its_routers_death_is_whole_and_counted_once(cancelled: bool):
    async with World() as world:
        begun = await read(world["r0"].open(request(LONG)), 10)
        await world.kill_router("r0", cancel_calls=cancelled)
        await asyncio.sleep(LONG * 0.01 + 1)
        assert world.running == 0
        computed = sum(engine.engine.computed for engine in world.engines.values())

        for _ in range(2):
            rest = await read(await world["r1"].resume(KEY, "t", 10))
            assert text_of(begun) + text_of(rest) == whole(LONG)
        assert world.routers["r1"].sample("serve_app_requests_total", outcome="completed") == 1
        assert sum(engine.engine.computed for engine in world.engines.values()) == computed == LONG


@pytest.mark.parametrize("cancelled", [True, False])
@virtual
async def test_an_engine_goes_on_for_the_grace_time_after_its_routers_death(cancelled: bool):
    async with World() as world:
        await read(world["r0"].open(request(LONG, grace_s=10.0)), 10)
        await world.kill_router("r0", cancel_calls=cancelled)
        await asyncio.sleep(9.0)
        assert world.running == 1
        await asyncio.sleep(2.0 + CHANNEL.silence_timeout_s)
        assert world.running == 0

        reader = await world["r1"].resume(KEY, "t", 10)
        assert text_of(await read(reader, 800)).startswith(whole(810, 10))
        assert isinstance(await error_of(reader), StreamCancelled)
        assert world.routers["r1"].sample("serve_app_requests_total", outcome="cancelled") == 1


@virtual
async def test_an_engine_is_idle_soon_after_a_living_router_ended_a_stream():
    async with World() as world:
        await cut(world["r0"].open(request(LONG)), 10)
        live(world).end(StreamCancelled("enough"))
        await asyncio.sleep(0.05)

        assert world.running == 0
        assert all(len(engine.server._kept) == 0 for engine in world.engines.values())


@virtual
async def test_a_call_that_a_living_router_cancelled_is_ended_even_if_it_says_no_more():
    async with World(routers=1) as world:
        await cut(world["r0"].open(request(LONG)), 10)
        router = world.routers["r0"].lifecycle
        router._end_at_engine = lambda stream: None  # type: ignore[method-assign]  # its word is lost
        live(world).end(StreamCancelled("enough"))
        await asyncio.sleep(1.5)

        assert world.running == 0


@pytest.mark.parametrize("router", ["r0", "r1"])
@virtual
async def test_an_engine_killed_at_any_token_loses_nothing(router: str):
    for place in SOME_CUTS[:-1]:
        async with World() as world:
            begun = await cut(world["r0"].open(request(100)), place)
            await asyncio.sleep(0.005)
            world.kill_engine(next(name for name, e in world.engines.items() if e.engine.running))
            rest = await read(await world[router].resume(KEY, "t", place))

            assert text_of(begun) + text_of(rest) == whole(100), place
            assert total(world, "serve_app_requests_total") == 1


@virtual
async def test_an_engine_and_then_the_router_die_and_the_second_engine_holds_the_whole():
    async with World() as world:
        reader = world["r0"].open(request(100))
        begun = await read(reader, 40)
        world.kill_engine(next(name for name, e in world.engines.items() if e.engine.running))
        begun += await read(reader, 20)
        await world.kill_router("r0")
        await asyncio.sleep(0.1)
        whole_again = await world["r1"].resume(KEY, "t", 0)

        assert text_of(begun) == whole(60)
        assert text_of(await read(whole_again)) == whole(100)


@virtual
async def test_the_router_that_took_over_dies_too():
    async with World(routers=3) as world:
        await cut(world["r0"].open(request(100)), 10)
        await world.kill_router("r0")
        begun = await read(await world["r1"].resume(KEY, "t", 0), 30)
        await world.kill_router("r1")

        assert text_of(begun) + text_of(await read(await world["r2"].resume(KEY, "t", 30))) == whole(100)


@virtual
async def test_router_and_engine_dead_it_is_gone_and_said_so():
    async with World() as world:
        await cut(world["r0"].open(request(100)), 10)
        world.kill_engine(next(name for name, e in world.engines.items() if e.engine.running))
        await world.kill_router("r0")

        with pytest.raises(StreamNotFound):
            await world["r1"].resume(KEY, "t", 10)


@virtual
async def test_a_router_that_hangs_does_not_go_on_with_what_others_took():
    async with World() as world:
        old = world["r0"].open(request(LONG))
        await read(old, 10)
        world.silent.add("r0")
        new = await world["r1"].resume(KEY, "t", 10)
        world.silent.clear()
        # What was on its way while it hung is lost to it: it looks into the engine's log, as after any gap.
        hung = live(world)
        await world.routers["r0"].lifecycle.conductor.gaps.fill(str(hung.engine_id), [hung])
        rest, error = await asyncio.gather(read(new), error_of(old))

        assert text_of(rest) == whole(LONG, 10)
        assert isinstance(error, StreamTakenOver)
        assert KEY not in world["r0"]._kept
        assert total(world, "serve_app_requests_total") == 1


@virtual
async def test_a_router_that_shuts_down_leaves_its_streams_to_the_engines():
    async with World() as world:
        reader = world["r0"].open(request(LONG))
        await read(reader, 10)
        await world["r0"].close()
        await world.routers["r0"].lifecycle.close()
        world.dead.add("r0")
        await asyncio.sleep(1.0)
        assert world.running == 1

        assert text_of(await read(await world["r1"].resume(KEY, "t", 10))) == whole(LONG, 10)


@virtual
async def test_two_hundred_streams_with_random_cuts_lose_and_repeat_nothing():
    rng = random.Random(4)

    async def follow(world: World, number: int) -> None:
        key, text, place = f"{number:032x}", "", 0
        reader = world[rng.choice(["r0", "r1", "r2"])].open(request(100, key))
        while place < 100:
            begun = await read(reader, rng.randrange(60))
            await reader.aclose()
            text += text_of(begun)
            place += tokens_of(begun)
            reader = await world[rng.choice(["r0", "r1", "r2"])].resume(key, "t", place)
        assert text + text_of(await read(reader)) == whole(100)

    async with World(routers=3, engines=8) as world:
        await asyncio.gather(*(follow(world, number) for number in range(200)))

        assert total(world, "serve_app_requests_total", outcome="completed") == 200
        assert total(world, "serve_app_requests_total") == 200
