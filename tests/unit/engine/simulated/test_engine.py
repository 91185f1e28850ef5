from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve_app.core.errors import EngineFailed, InvalidRequest
from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.core.request import Sampling
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.engine import SimulatedEngine
from tests.support.generations import Recording, collect, request
from tests.support.loop_hold import LoopHold
from tests.support.virtual_loop import VirtualTimeLoop, run_virtual


@asynccontextmanager
async def _running(**config: Any) -> AsyncIterator[SimulatedEngine]:
    engine = SimulatedEngine(SimulatedEngineConfig.model_validate({"step_s": 1.0, **config}))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def _tokens(count: int) -> Sampling:
    return Sampling(max_tokens=count, ignore_eos=True)


def _now() -> float:
    return asyncio.get_running_loop().time()


def test_start_takes_the_load_time() -> None:
    async def main() -> None:
        async with _running(load_s=30):
            assert _now() == 30

    run_virtual(main())


def test_start_that_fails_does_so_after_the_load_time() -> None:
    async def main() -> None:
        with pytest.raises(EngineFailed):
            async with _running(load_s=30, faults={"start_failure_probability": 1}):
                pass
        assert _now() == 30

    run_virtual(main())


def test_engine_that_is_not_started_serves_nothing() -> None:
    async def main() -> None:
        engine = SimulatedEngine(SimulatedEngineConfig())
        for call in (engine.generate(request("Hi"), Recording()), engine.check_health()):
            with pytest.raises(EngineFailed):
                await call

    run_virtual(main())


def test_tokens_come_one_step_apart_on_the_loops_clock() -> None:
    async def main() -> None:
        times: list[float] = []

        def emit(event: StreamEvent) -> None:
            if isinstance(event, TokenDelta):
                times.append(_now())

        async with _running(step_s=0.02) as engine:
            await engine.generate(request("Hi", _tokens(50)), emit)
        assert times == pytest.approx([0.02 * step for step in range(1, 51)])

    run_virtual(main())


def test_one_timer_serves_the_whole_batch_and_none_an_idle_engine() -> None:
    async def main() -> None:
        loop = _CountingLoop.current()
        async with _running() as engine:
            await asyncio.gather(*(collect(engine, request(f"Hi {number}", _tokens(20))) for number in range(64)))
            assert loop.timers <= 22
            made = loop.timers
            await asyncio.sleep(1000)
            assert loop.timers == made + 1  # the sleep's own

    _run_counting(main())


def test_accepted_comes_before_any_queueing() -> None:
    async def main() -> None:
        async with _running(max_running=1) as engine:
            first = asyncio.create_task(collect(engine, request("Hi", _tokens(10))))
            waiting = Recording()
            second = asyncio.create_task(engine.generate(request("Ho", _tokens(1)), waiting))
            await asyncio.sleep(5)
            assert engine.load().waiting == 1
            assert waiting.accepted.prompt_token_ids
            assert waiting.deltas() == []
            await asyncio.gather(first, second)
            assert _now() == 11

    run_virtual(main())


def test_cancelling_a_waiting_generation_takes_it_out_of_the_queue() -> None:
    async def main() -> None:
        async with _running(max_running=1) as engine:
            first = asyncio.create_task(collect(engine, request("Hi", _tokens(10))))
            waiting = Recording()
            second = asyncio.create_task(engine.generate(request("Ho", _tokens(1)), waiting))
            await asyncio.sleep(5)
            second.cancel()
            await asyncio.wait([second])
            assert second.cancelled()
            assert engine.load().waiting == 0
            await first
            assert waiting.deltas() == []

    run_virtual(main())


def test_request_error_is_raised_by_its_generation_and_the_engine_stays_healthy() -> None:
    async def main() -> None:
        faults = {"requests": [{"kind": "error", "request": 1, "token": 3}]}
        async with _running(faults=faults) as engine:
            recording = Recording()
            with pytest.raises(EngineFailed):
                await engine.generate(request("Hi", _tokens(10)), recording)
            assert len(recording.token_ids()) == 3
            await engine.check_health()
            assert len((await collect(engine, request("Hi", _tokens(10)))).token_ids()) == 10

    run_virtual(main())


def test_crashed_engine_is_unhealthy_and_refuses_new_generations() -> None:
    async def main() -> None:
        faults = {"requests": [{"kind": "crash", "request": 2, "token": 3}]}
        async with _running(faults=faults) as engine:
            both = [engine.generate(request("Hi", _tokens(10)), Recording()) for _ in range(2)]
            outcomes = await asyncio.gather(*both, return_exceptions=True)
            assert all(isinstance(outcome, EngineFailed) for outcome in outcomes)
            with pytest.raises(EngineFailed):
                await engine.check_health()
            with pytest.raises(EngineFailed):
                await collect(engine, request("Hi"))

    run_virtual(main())


def test_crash_noticed_by_the_health_check_ends_what_runs() -> None:
    async def main() -> None:
        async with _running(step_s=60, faults={"timed": [{"kind": "crash", "after_s": 5}]}) as engine:
            task = asyncio.create_task(collect(engine, request("Hi")))
            await asyncio.sleep(6)
            with pytest.raises(EngineFailed):
                await engine.check_health()
            with pytest.raises(EngineFailed):
                await task
            assert _now() == 6

    run_virtual(main())


def test_close_ends_what_runs_and_may_be_repeated() -> None:
    async def main() -> None:
        async with _running() as engine:
            task = asyncio.create_task(collect(engine, request("Hi", _tokens(100))))
            await asyncio.sleep(5)
            await engine.close()
            await engine.close()
            with pytest.raises(EngineFailed):
                await task
            with pytest.raises(EngineFailed):
                await collect(engine, request("Hi"))
            assert engine.load().running == 0

    run_virtual(main())


def test_invalid_request_costs_no_place_in_the_order_of_faults() -> None:
    async def main() -> None:
        faults = {"requests": [{"kind": "error", "request": 1}]}
        async with _running(faults=faults) as engine:
            with pytest.raises(InvalidRequest):
                await collect(engine, request("Hi", Sampling(max_tokens=0)))
            with pytest.raises(EngineFailed):
                await collect(engine, request("Hi"))

    run_virtual(main())


def test_receiver_that_raises_kills_the_engine_visibly_instead_of_hanging_it() -> None:
    async def main() -> None:
        def emit(event: StreamEvent) -> None:
            if isinstance(event, TokenDelta):
                raise ValueError("a broken receiver")

        async with _running() as engine:
            other = asyncio.create_task(collect(engine, request("Hi")))
            with pytest.raises(EngineFailed):
                await engine.generate(request("Hi"), emit)
            with pytest.raises(EngineFailed):
                await other
            with pytest.raises(EngineFailed):
                await engine.check_health()

    run_virtual(main())


class _CountingLoop(VirtualTimeLoop):
    """Counts the timers that are set."""

    timers = 0

    @staticmethod
    def current() -> _CountingLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _CountingLoop)
        return loop

    def call_at(self, *args: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers += 1
        return super().call_at(*args, **options)


def _run_counting(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_CountingLoop) as runner:
        runner.run(main)


async def test_a_long_prompt_is_rendered_beside_short_ones() -> None:
    text = " the engine of zyzzyva" * 15_000
    config = {"max_model_len": 128_000, "kv_capacity_tokens": 128_000, "step_s": 0.001}
    holds = []
    for _ in range(3):  # the best counts: what holds the loop each time is the code, once the machine
        async with _running(**config) as engine, LoopHold() as hold:
            long = asyncio.create_task(collect(engine, request(text, _tokens(1))))
            await asyncio.sleep(0)
            await collect(engine, request("Hi", _tokens(1)))
            assert not long.done()
            assert (await long).accepted.prompt_tokens > 100_000
        holds.append(hold.longest_s)
    assert min(holds) < 0.05


async def test_a_long_prompt_whose_client_leaves_is_rendered_no_further() -> None:
    async with _running(max_model_len=100_000, kv_capacity_tokens=100_000) as engine:
        recording = Recording()
        task = asyncio.create_task(engine.generate(request("zyzzyva " * 20_000, _tokens(1)), recording))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert recording.events == []
