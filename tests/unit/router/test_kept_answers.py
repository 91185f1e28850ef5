"""Readers of retained streams come and go, and what is kept stays within bounds; in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.core.errors import (
    ClientTooSlow,
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    StreamCancelled,
    StreamConflict,
    StreamNotFound,
)
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import Prompt
from serve_app.token_channel.event_memory import event_bytes
from tests.support.loop_hold import LoopHold
from tests.support.retained_reading import cut, error_of, live, read_and_leave, tokens_of, total, virtual
from tests.support.retained_world import KEY, World, read, request, text_of, whole

LONG = 3000
"""Tokens of an answer that takes 30 s."""
EVERY_CUT = range(0, 101)


# --- readers that come and go


@virtual
async def test_a_stream_is_read_as_one_that_is_not_retained():
    async with World() as world:
        events = await read(world["r0"].open(request(20)))

        assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
        assert text_of(events) == whole(20)


@pytest.mark.parametrize(("router", "place"), [("r0", "here"), ("r1", "router")])
@virtual
async def test_cut_after_any_token_and_resumed_here_or_elsewhere_nothing_is_lost_or_repeated(router: str, place: str):
    async def cut_and_resume(world: World, tokens: int) -> None:
        key = f"{tokens:032x}"
        begun = await cut(world["r0"].open(request(100, key)), tokens)
        rest = await read(await world[router].resume(key, "t", tokens))

        assert text_of(begun) + text_of(rest) == whole(100), tokens
        assert isinstance(rest[0], Accepted) and isinstance(rest[-1], Finished)

    async with World(engines=4) as world:
        await asyncio.gather(*(cut_and_resume(world, tokens) for tokens in EVERY_CUT))

        assert total(world, "serve_app_requests_total", outcome="completed") == len(EVERY_CUT)
        assert total(world, "serve_app_requests_total") == len(EVERY_CUT)
        assert total(world, "serve_app_concurrent_streams") == 0
        assert total(world, "serve_app_resumed_streams_total", place=place) == len(EVERY_CUT)
        await asyncio.sleep(1)
        assert world.running == 0


@virtual
async def test_several_readers_at_one_router_each_get_the_whole():
    async with World() as world:
        first = world["r0"].open(request(100))
        readers = [first, await world["r0"].resume(KEY, "t")]
        begun = await read(first, 30)
        readers.append(await world["r0"].resume(KEY, "t", 20))
        rest = await asyncio.gather(*map(read, readers))

        assert text_of(begun) + text_of(rest[0]) == text_of(rest[1]) == whole(100)
        assert text_of(rest[2]) == whole(100, 20)


@virtual
async def test_a_token_that_began_before_the_offset_comes_with_its_later_part_and_its_whole_text():
    async with World() as world:
        reader = world["r0"].open(request(10))
        retained = world["r0"]._kept[KEY].answer
        retained.take([Accepted(1, [1]), TokenDelta(0, 0, 3, "abc", [5, 6, 7], None)])
        events = await read(await world["r0"].resume(KEY, "t", 2), 1)
        await reader.aclose()

        assert events == [Accepted(1), TokenDelta(0, 2, 1, "abc", [7])]


@virtual
async def test_an_offset_beyond_the_end_is_wrong_and_one_beyond_what_runs_is_waited_for():
    async with World() as world:
        await cut(world["r0"].open(request(20)), 3)
        ahead = await world["r0"].resume(KEY, "t", 15)
        assert text_of(await read(ahead)) == whole(20, 15)

        assert text_of(await read(await world["r0"].resume(KEY, "t", 20))) == ""
        for offset in (21, -1):
            with pytest.raises(InvalidRequest) as wrong:
                await world["r0"].resume(KEY, "t", offset)
            assert wrong.value.param == "offset"


@virtual
async def test_another_tenant_finds_nothing_wherever_the_stream_is():
    async with World() as world:
        await cut(world["r0"].open(request(LONG)), 5)
        for router in ("r0", "r1"):
            for asked in (world[router].resume, world[router].look_up, world[router].cancel):
                with pytest.raises(StreamNotFound):
                    await asked(KEY, "somebody")
        assert KEY in world["r0"]._kept and world.running == 1, "it was not even disturbed"
        await world.kill_router("r0")
        with pytest.raises(StreamNotFound):
            await world["r1"].resume(KEY, "somebody")

        assert text_of(await read(await world["r1"].resume(KEY, "t", 5), 5)) == whole(10, 5)


@virtual
async def test_a_key_names_one_stream():
    async with World() as world:
        reader = world["r0"].open(request())
        with pytest.raises(StreamConflict):
            world["r0"].open(request())
        await reader.aclose()
        with pytest.raises(InvalidRequest) as several:
            world["r0"].open(request_of_choices(2))
        assert several.value.param == "n"


def request_of_choices(n: int):
    asked = request(key="f" * 32)
    return replace(asked, sampling=replace(asked.sampling, n=n))


@virtual
async def test_a_refused_stream_may_be_opened_again_and_is_told_when_looked_up():
    async with World() as world:
        reader = world["r0"].open(request())
        live(world).end(QueueFull("full"))
        assert isinstance(await error_of(reader), QueueFull)
        with pytest.raises(StreamNotFound):
            await world["r0"].resume(KEY, "t")
        assert isinstance((await world["r0"].look_up(KEY, "t")).error, QueueFull)

        assert text_of(await read(world["r0"].open(request()))) == whole(100)


@virtual
async def test_a_reader_waits_as_long_as_it_wants():
    async with World() as world:
        for engine in world.engines.values():
            engine.engine.flowing.clear()
        reader = world["r0"].open(request(5))
        await reader.next()
        start = world.loop.time()

        assert await reader.next(2.0) == ()
        assert 2.0 <= world.loop.time() - start < 2.3
        await reader.aclose()


@virtual
async def test_events_go_straight_to_a_sink_and_the_last_ones_are_returned():
    async with World() as world:
        taken: list[StreamEvent] = []

        def take(events):
            taken.extend(events)
            return tokens_of(taken) != 7

        reader = world["r0"].open(request(20))
        while (events := await reader.next(5.0, take)) is not None:
            if not events:
                assert tokens_of(taken) == 7  # it wanted no more
                events = await reader.next() or ()
            taken.extend(events)
        assert text_of(taken) == whole(20)
        assert isinstance(taken[-1], Finished)


@virtual
async def test_a_sink_that_fails_ends_its_reader_and_no_other():
    async with World() as world:

        def broken(events):
            raise RuntimeError("defect")

        bad = world["r0"].open(request(20))
        good = await world["r0"].resume(KEY, "t")
        await bad.next()
        reading = asyncio.create_task(read(good))
        with pytest.raises(Exception, match="internal error"):
            await bad.next(None, broken)

        assert text_of(await reading) == whole(20)


@virtual
async def test_a_slow_reader_is_cut_at_its_bound_and_resumes_while_the_stream_goes_on():
    async with World() as world:
        world["r0"]._reader_limit = 10_000
        slow = world["r0"].open(request(1000))
        begun = await read(slow, 10)
        fast = asyncio.create_task(read(await world["r0"].resume(KEY, "t")))
        await asyncio.sleep(5.0)
        assert isinstance(await error_of(slow), ClientTooSlow)
        await slow.aclose()

        assert text_of(begun) + text_of(await read(await world["r0"].resume(KEY, "t", 10))) == whole(1000)
        assert text_of(await fast) == whole(1000)
        assert total(world, "serve_app_requests_total", outcome="completed") == 1


@virtual
async def test_what_a_late_reader_has_to_catch_up_with_does_not_cut_it():
    async with World() as world:
        world["r0"]._reader_limit = 10_000
        await cut(world["r0"].open(request(2000, grace_s=None)), 1)
        await asyncio.sleep(30)
        late = await world["r0"].resume(KEY, "t")
        batches = []
        while (batch := await late.next()) is not None:
            batches.append(batch)
        assert text_of([event for batch in batches for event in batch]) == whole(2000)
        assert len(batches) > 1  # in parts


# --- grace, bounds, stopping


@virtual
async def test_generation_goes_on_for_the_grace_time_and_then_stops():
    async with World() as world:
        await cut(world["r0"].open(request(LONG, grace_s=10.0)), 5)
        await asyncio.sleep(9.5)
        assert world.running == 1
        await asyncio.sleep(0.8)
        assert world.running == 0

        assert total(world, "serve_app_requests_total", outcome="cancelled") == 1
        rest = await world["r0"].resume(KEY, "t", 5)
        begun = await read(rest, 900)
        assert text_of(begun) == whole(5 + tokens_of(begun), 5)
        assert isinstance(await error_of(rest), StreamCancelled)


@virtual
async def test_a_reader_that_comes_back_in_time_renews_the_grace():
    async with World() as world:
        await cut(world["r0"].open(request(LONG, grace_s=5.0)), 5)
        for _ in range(3):
            await asyncio.sleep(4)
            await (await world["r0"].resume(KEY, "t")).aclose()
        assert world.running == 1


@virtual
async def test_without_a_grace_time_it_goes_on_to_its_end_with_nobody_reading():
    async with World() as world:
        await cut(world["r0"].open(request(LONG, grace_s=None)), 0)
        await asyncio.sleep(40)

        answer = await world["r0"].look_up(KEY, "t")
        assert answer.ended and answer.error is None
        assert text_of(answer.events) == whole(LONG)


@virtual
async def test_ended_streams_are_kept_for_a_while_within_bounds():
    async with World(engines=1, keep_s=60, max_streams=3, max_bytes=1_000_000) as world:
        keys = [f"{number:032x}" for number in range(5)]
        for key in keys:
            await read_and_leave(world["r0"].open(request(10, key)))
        await asyncio.sleep(0.2)
        for key in keys[:2]:
            with pytest.raises(StreamNotFound):
                await world["r0"].resume(key, "t")
        for key in keys[2:]:
            assert text_of(await read(await world["r0"].resume(key, "t"))) == whole(10)
        assert total(world, "serve_app_retained_streams") == 3
        assert total(world, "serve_app_retained_bytes") > 3 * 10 * 10
        await asyncio.sleep(61)

        assert total(world, "serve_app_retained_streams") == total(world, "serve_app_retained_bytes") == 0
        with pytest.raises(StreamNotFound):
            await world["r0"].resume(keys[-1], "t")


@virtual
async def test_bytes_are_bounded_and_running_streams_are_always_kept():
    async with World(max_bytes=15_000) as world:
        running = world["r0"].open(request(1000, "f" * 32))
        for number in range(8):
            await read_and_leave(world["r0"].open(request(50, f"{number:032x}")))
        await asyncio.sleep(0.2)

        ended = [kept.answer for key, kept in world["r0"]._kept.items() if key != "f" * 32]
        assert 0 < len(ended) < 8
        assert sum(retained.bytes for retained in ended) <= 15_000
        assert text_of(await read_and_leave(running)) == whole(1000)
        assert all(engine.server._kept._ended.bytes <= 15_000 for engine in world.engines.values())


@virtual
async def test_a_long_prompt_counts_as_what_it_takes():
    async with World(max_bytes=3_000_000) as world:
        for number in range(4):
            asked = request(10, f"{number:032x}")
            await read_and_leave(world["r0"].open(replace(asked, prompt=Prompt(text="x" * 1_000_000))))
        await asyncio.sleep(0.2)

        assert sorted(world["r0"]._kept) == [f"{number:032x}" for number in (2, 3)]
        assert all(engine.server._kept._ended.bytes <= 3_000_000 for engine in world.engines.values())


@virtual
async def test_streams_that_ended_without_a_token_do_not_push_out_answers():
    async with World(max_streams=16) as world:
        await read_and_leave(world["r0"].open(request(10)))
        for number in range(20):
            late = replace(request(10, f"{number:032x}"), timeout_s=0.0)
            await error_of(world["r0"].open(late))
        await asyncio.sleep(0.2)

        assert text_of(await read(await world["r0"].resume(KEY, "t"))) == whole(10)
        assert len(world["r0"]._kept) == 2


@virtual
async def test_an_ended_stream_takes_little_memory():
    async with World() as world:
        reader = world["r0"].open(request(500))
        events = await read(reader)
        retained = world["r0"]._kept[KEY].answer
        assert retained.bytes < sum(map(event_bytes, events)) / 8
        assert total(world, "serve_app_retained_bytes") == retained.bytes
        await reader.aclose()
        assert await reader.next() is None

        again = await world["r0"].resume(KEY, "t", 490)
        assert text_of(await read_and_leave(again)) == whole(500, 490)
        assert retained.log.tokens == 500
        assert text_of((await world["r0"].look_up(KEY, "t")).events) == whole(500)


@pytest.mark.parametrize("router", ["r0", "r1"])
@virtual
async def test_a_stopped_stream_is_cancelled_wherever_it_runs(router: str):
    async with World() as world:
        reader = world["r0"].open(request(LONG))
        await read(reader, 5)
        answer = await world[router].cancel(KEY, "t")
        assert answer.ended and isinstance(answer.error, StreamCancelled)
        assert tokens_of(list(answer.events)) >= 5
        assert isinstance(await error_of(reader), StreamCancelled)
        await asyncio.sleep(1)
        assert world.running == 0

        assert isinstance((await world[router].cancel(KEY, "t")).error, StreamCancelled)
        assert isinstance((await world["r0"].look_up(KEY, "t")).error, StreamCancelled)
        assert total(world, "serve_app_requests_total", outcome="cancelled") == 1
        assert total(world, "serve_app_requests_total") == 1


@virtual
async def test_stopping_what_has_ended_changes_nothing():
    async with World() as world:
        await read(world["r0"].open(request(10)))
        answer = await world["r1"].cancel(KEY, "t")

        assert answer.ended and answer.error is None and text_of(answer.events) == whole(10)
        assert total(world, "serve_app_requests_total") == 1


@pytest.mark.parametrize("router", ["r0", "r1"])
@virtual
async def test_a_forgotten_stream_is_found_by_nobody_not_even_at_engines(router: str):
    async with World() as world:
        await read(world["r0"].open(request(10)))
        assert text_of((await world[router].cancel(KEY, "t", forget=True)).events) == whole(10)
        await asyncio.sleep(3)

        for name in world.routers:
            with pytest.raises(StreamNotFound):
                await world[name].look_up(KEY, "t")
        assert all(len(engine.server._kept) == 0 for engine in world.engines.values())


@virtual
async def test_its_deadline_ends_a_stream_that_nobody_reads():
    async with World() as world:
        await cut(world["r0"].open(request(LONG, timeout_s=2.0)), 5)
        await asyncio.sleep(3)

        assert isinstance((await world["r0"].look_up(KEY, "t")).error, DeadlineExceeded)
        assert world.running == 0


# --- long answers, and text without tokens


@virtual
async def test_polling_an_answer_of_100_000_tokens_hardly_holds_the_loop():
    """All its events were decoded on the loop for each poll: 0.8 s."""
    async with World(engines=1) as world:
        reader = world["r0"].open(request(LONG))
        await read(reader, 1)
        kept = world["r0"]._kept[KEY].answer
        tokens = kept.log.tokens
        for start in range(tokens, 100_000, 100):
            kept.take([TokenDelta(0, place, 1, "word ", [place]) for place in range(start, start + 100)])
        for router, ask in ((0, "look_up"), (1, "look_up"), (0, "cancel")):
            async with LoopHold() as hold:
                state = await getattr(world[f"r{router}"], ask)(KEY, "t")
            assert tokens_of(list(state.events)) > 99_000
            assert hold.longest_s < 0.05, (router, ask)


@virtual
async def test_text_that_comes_without_a_token_is_neither_lost_nor_repeated():
    """A continuation whose output was complete already tells the text that was held back, and no token."""
    async with World() as world:
        reader = world["r0"].open(request(10))
        kept = world["r0"]._kept[KEY]
        kept.answer.take([Accepted(1, [1]), TokenDelta(0, 0, 1, "Hello", [10]), TokenDelta(0, 1, 1, "", [11])])
        kept.answer.take([TokenDelta(0, 2, 0, " EN", [])])
        kept.answer.end(None, [Finished(0, FinishReason.LENGTH)])
        await reader.aclose()

        async def rest_from(router: str, position: int) -> str:
            rest = await world[router].resume(KEY, "t", position)
            skipped = rest.skipped()
            assert skipped.tokens == min(position, 2)
            return text_of(await read_and_leave(rest))

        for router in ("r0", "r1"):
            assert [await rest_from(router, position) for position in range(4)] == ["Hello EN", " EN", " EN", ""]
        with pytest.raises(InvalidRequest):
            await world["r1"].resume(KEY, "t", 4)
