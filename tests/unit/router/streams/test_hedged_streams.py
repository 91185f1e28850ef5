"""Two concurrent attempts of one request as its client and the engines see them."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import EngineFailed, EngineFull, EngineLost
from serve_app.core.events import Accepted, Failed, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt, Retention
from serve_app.router import attempt_calls
from serve_app.router.decisions.messages import Tick
from serve_app.router.streams.running_stream import RunningStream
from tests.support.fake_engines import ENDPOINT, Call, status
from tests.support.settling import settle
from tests.unit.router.lifecycle_bench import Bench, read_all

ANSWER: list[StreamEvent] = [
    Accepted(3, [1, 2, 3]),
    TokenDelta(0, 0, 1, "Hel", [5]),
    TokenDelta(0, 1, 1, "lo", [6]),
    Finished(0, FinishReason.STOP, cached_tokens=1),
]
OTHER_ANSWER: list[StreamEvent] = [
    Accepted(3, [1, 2, 3]),
    TokenDelta(0, 0, 1, "Good", [7]),
    TokenDelta(0, 1, 1, " day", [8]),
    Finished(0, FinishReason.STOP),
]


class HedgedBench(Bench):
    """Two engines, and one stream with an attempt at each."""

    stream: RunningStream
    first: Call
    second: Call

    async def begin(self) -> None:
        await self.router.start(ENDPOINT)
        self.router.replicas_listed("m", frozenset({"e1", "e2"}))
        self.router.on_status(status("e1"))
        self.router.on_status(status("e2"))
        timeouts = self.router.core.model("m").attempts.timeouts
        for _ in range(8):
            timeouts.learn_first_token(0.2, 1, self.now)
        self.stream = self.open()
        self.first = await self.call()
        self.give(self.first, 0, ANSWER[0])
        self.now += 3.75
        self.router.conductor.tell(Tick())
        self.second = await self.call(1)

    def give(self, call: Call, from_seq: int, *events: StreamEvent) -> None:
        self.router.on_events(call.engine_id, call.wire(from_seq, *events))

    def hedges(self) -> dict[str, float]:
        outcomes = ("won", "lost", "failed", "undecided")
        counts = {one: self.sample("serve_app_hedges_total", outcome=one) for one in outcomes}
        return {outcome: count for outcome, count in counts.items() if count}


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempt_calls, "LATE_EVENTS_S", 0.0)
    bench = HedgedBench(hedging={"enabled": True, "target_s": 4.0}, retry={"base_delay_s": 0.0})
    await bench.begin()
    yield bench
    await bench.router.close()


async def test_an_answer_that_engines_retain_is_computed_by_one_of_them_only(bench: HedgedBench) -> None:
    request = GenerationRequest("r2", "m", Prompt(text="hi"), retention=Retention("key"))
    bench.router.open(request)
    call = await bench.call(2)
    bench.give(call, 0, ANSWER[0])
    bench.now += 3.75
    bench.router.conductor.tell(Tick())
    await settle()

    assert len(bench.caller.calls) == 3


async def test_the_second_attempt_is_sent_to_another_engine_while_the_first_goes_on(bench: HedgedBench) -> None:
    assert {bench.first.engine_id, bench.second.engine_id} == {"e1", "e2"}
    assert bench.second.reply_to.attempt == 2
    assert bench.second.request == bench.first.request
    assert not bench.first.cancelled
    assert bench.sample("serve_app_concurrent_streams") == 1


async def test_the_first_attempt_wins_and_the_second_ones_call_is_cancelled(bench: HedgedBench) -> None:
    bench.give(bench.second, 0, OTHER_ANSWER[0])
    bench.give(bench.first, 1, ANSWER[1])
    await settle()
    assert bench.second.cancelled
    bench.give(bench.second, 1, *OTHER_ANSWER[1:])
    bench.give(bench.first, 2, *ANSWER[2:])

    assert await read_all(bench.stream) == ANSWER
    assert not bench.first.cancelled
    assert bench.hedges() == {"lost": 1}
    assert bench.sample("serve_app_wasted_tokens_total", reason="outrun") == 3
    assert bench.sample("serve_app_output_tokens_total") == 2


async def test_the_second_attempt_wins_and_the_first_ones_call_is_cancelled(bench: HedgedBench) -> None:
    bench.give(bench.second, 0, *OTHER_ANSWER[:2])
    await settle()
    assert bench.first.cancelled
    bench.give(bench.first, 1, *ANSWER[1:])
    bench.give(bench.second, 2, *OTHER_ANSWER[2:])

    assert await read_all(bench.stream) == OTHER_ANSWER
    assert not bench.second.cancelled
    assert bench.hedges() == {"won": 1}
    assert bench.sample("serve_app_dispatch_requeues_total", reason="outrun") == 1
    assert bench.sample("serve_app_wasted_tokens_total", reason="outrun") == 3
    assert bench.sample("serve_app_prompt_tokens_total") == 3
    assert bench.sample("serve_app_requests_total", outcome="completed") == 1
    assert bench.stream.engine_id == bench.second.engine_id
    assert bench.stream.metrics.hedges == 1


async def test_of_tokens_that_come_together_the_earlier_ones_win(bench: HedgedBench) -> None:
    mixed = [*bench.first.wire(1, ANSWER[1]), *bench.second.wire(0, *OTHER_ANSWER), *bench.first.wire(2, *ANSWER[2:])]
    bench.router.on_events("e1", mixed)

    assert await read_all(bench.stream) == ANSWER
    await settle()
    assert bench.second.cancelled
    assert bench.hedges() == {"lost": 1}


async def test_an_answer_that_comes_as_a_whole_ends_the_other_attempt(bench: HedgedBench) -> None:
    bench.give(bench.first, 1, *ANSWER[1:])
    await settle()
    assert bench.second.cancelled
    assert bench.hedges() == {"lost": 1}

    assert await read_all(bench.stream) == ANSWER


async def test_the_second_attempt_goes_on_when_the_first_ones_engine_dies(bench: HedgedBench) -> None:
    bench.first.result.set_exception(EngineLost("gone"))
    await settle()
    assert len(bench.caller.calls) == 2
    bench.give(bench.second, 0, *OTHER_ANSWER)

    assert await read_all(bench.stream) == [ANSWER[0], *OTHER_ANSWER[1:]]
    assert bench.hedges() == {"won": 1}
    assert bench.sample("serve_app_wasted_tokens_total", reason="engine_lost") == 3


async def test_the_first_attempt_goes_on_when_the_second_ones_engine_dies(bench: HedgedBench) -> None:
    bench.second.result.set_exception(EngineLost("gone"))
    await settle()
    bench.give(bench.first, 1, *ANSWER[1:])

    assert await read_all(bench.stream) == ANSWER
    assert bench.hedges() == {"failed": 1}


@pytest.mark.parametrize("error", [EngineFull("full"), EngineFailed("broken")])
async def test_a_second_attempt_that_comes_to_nothing_is_not_noticed(bench: HedgedBench, error: Exception) -> None:
    bench.second.result.set_exception(error)
    await settle()
    assert not bench.first.cancelled
    bench.give(bench.first, 1, *ANSWER[1:])

    assert await read_all(bench.stream) == ANSWER
    assert len(bench.caller.calls) == 2


async def test_a_failure_told_on_the_channel_ends_only_its_own_attempt(bench: HedgedBench) -> None:
    bench.give(bench.second, 0, OTHER_ANSWER[0], Failed("engine_failed", "broken"))
    await settle()
    assert bench.second.cancelled
    bench.give(bench.first, 1, *ANSWER[1:])

    assert await read_all(bench.stream) == ANSWER


async def test_a_stream_whose_attempts_both_fail_is_tried_again(bench: HedgedBench) -> None:
    bench.give(bench.first, 1, Failed("engine_failed", "broken"))
    bench.give(bench.second, 0, Failed("engine_failed", "broken"))
    bench.router.conductor.tell(Tick())
    third = await bench.call(2)
    assert third.reply_to.attempt == 3
    bench.give(third, 0, *ANSWER)

    assert await read_all(bench.stream) == ANSWER


async def test_a_client_that_leaves_cancels_both_calls(bench: HedgedBench) -> None:
    bench.give(bench.second, 0, OTHER_ANSWER[0])
    await bench.stream.aclose()
    await settle()

    assert bench.first.cancelled
    assert bench.second.cancelled
    assert bench.hedges() == {"undecided": 1}
    assert bench.sample("serve_app_wasted_tokens_total", reason="outrun") == 3


async def test_a_client_that_leaves_after_the_second_attempt_has_won_cancels_its_call(bench: HedgedBench) -> None:
    bench.give(bench.second, 0, *OTHER_ANSWER[:2])
    await bench.stream.aclose()
    await settle()

    assert bench.second.cancelled


async def test_events_of_the_second_attempt_that_were_lost_are_read_again_once_it_has_won(bench: HedgedBench) -> None:
    bench.caller.log[bench.second.reply_to.key] = bench.second.wire(0, *OTHER_ANSWER)
    bench.router.on_events(bench.second.engine_id, bench.second.wire(0, *OTHER_ANSWER)[2:])

    assert await asyncio.wait_for(read_all(bench.stream), 5.0) == [ANSWER[0], *OTHER_ANSWER[1:]]
    assert bench.router.gaps == 1


async def test_a_second_attempt_whose_events_were_all_lost_is_read_when_it_is_the_only_one(bench: HedgedBench) -> None:
    bench.caller.log[bench.second.reply_to.key] = bench.second.wire(0, *OTHER_ANSWER)
    bench.second.result.set_result(len(OTHER_ANSWER))
    await settle()
    bench.first.result.set_exception(EngineLost("gone"))

    assert await asyncio.wait_for(read_all(bench.stream), 5.0) == [ANSWER[0], *OTHER_ANSWER[1:]]
