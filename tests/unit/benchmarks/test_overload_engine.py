"""The simulator's engine against the step-level cost model of `serve_app.engine.simulated.model`, and its faults."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from benchmarks.overload.event_loop import EventLoop
from benchmarks.overload.jobs import Job
from benchmarks.overload.step_engine import EngineProfile, StepEngine
from serve_app.core.events import TokenDelta
from serve_app.core.request import Sampling
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.model import SimulatedModel

PROFILE = EngineProfile(max_running=6, kv_capacity_tokens=900, prefill_chunk_tokens=128)


class Told:
    """Notes when tokens came."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.first: dict[Any, float] = {}
        self.last: dict[Any, float] = {}
        self.counts: dict[Any, int] = defaultdict(int)

    def tokens(self, job: Job, first: int, count: int) -> None:
        name: Any = job.attempt
        assert first == self.counts[name]
        self.counts[name] += count
        self.first.setdefault(name, self.loop.now)

    def finished(self, job: Job) -> None:
        self.last[job.attempt] = self.loop.now

    def failed(self, job: Job) -> None:
        raise AssertionError


def job(name: Any, prompt_tokens: int, output_tokens: int) -> Job:
    return Job(name, prompt_tokens, output_tokens, 0)


def load(seed: int) -> list[tuple[float, int, int, float | None]]:
    """Arrivals (time, prompt, output, when it is aborted)."""
    rng = random.Random(seed)
    at, found = 0.0, []
    for _ in range(60):
        at += rng.expovariate(1.5)
        aborted = at + rng.uniform(0.0, 6.0) if rng.random() < 0.2 else None
        found.append((at, rng.randint(1, 400), rng.randint(1, 120), aborted))
    return found


class SteppedModel:
    """Drives the reference model step by step on the same virtual clock."""

    def __init__(self, loop: EventLoop) -> None:
        self.model = SimulatedModel(
            SimulatedEngineConfig(
                max_model_len=900,
                max_running=PROFILE.max_running,
                kv_capacity_tokens=PROFILE.kv_capacity_tokens,
                prefix_cache_tokens=0,
                prefill_s_per_token=PROFILE.prefill_s_per_token,
                prefill_chunk_tokens=PROFILE.prefill_chunk_tokens,
                decode_base_s=PROFILE.decode_base_s,
                decode_s_per_sequence=PROFILE.decode_s_per_sequence,
            )
        )
        self.loop = loop
        self.busy = False
        self.first: dict[Any, float] = {}
        self.last: dict[Any, float] = {}

    def submit(self, name: int, prompt_tokens: int, output_tokens: int) -> Any:
        def emit(event: object) -> None:
            if isinstance(event, TokenDelta):
                self.first.setdefault(name, self.loop.now)
                if event.index == output_tokens - 1:
                    self.last[name] = self.loop.now

        made = self.model.submit([65] * prompt_tokens, Sampling(ignore_eos=True), output_tokens, emit)
        if not self.busy:
            self.begin()
        return made

    def begin(self) -> None:
        step_s = self.model.begin_step(self.loop.now)
        self.busy = step_s is not None
        if step_s is not None:
            self.loop.after(step_s, self.end)

    def end(self) -> None:
        self.model.finish_step(self.loop.now)
        self.begin()


@pytest.mark.parametrize("seed", range(8))
def test_the_engine_is_the_step_level_cost_model_taken_in_longer_strides(seed) -> None:
    reference_loop, loop = EventLoop(), EventLoop()
    reference = SteppedModel(reference_loop)
    told = Told(loop)
    engine = StepEngine(PROFILE, loop, told)
    jobs: dict[int, Any] = {}
    for name, (at, prompt, output, aborted) in enumerate(load(seed)):
        mine = job(name, prompt, output)
        loop.at(at, engine.submit, mine)

        def submit(name: int = name, prompt: int = prompt, output: int = output) -> None:
            jobs[name] = reference.submit(name, prompt, output)

        reference_loop.at(at, submit)
        if aborted is not None:
            loop.at(aborted, engine.abort, mine)
            reference_loop.at(aborted, lambda name=name: reference.model.abort(jobs[name]))
    loop.run(500.0)
    reference_loop.run(500.0)

    assert told.first == pytest.approx(reference.first)
    assert told.last == pytest.approx(reference.last)
    assert len(told.last) > 30
    assert engine.preemptions > 0, "the load must make the cache overflow, or half of the model goes untested"
    assert engine.load().generated_tokens == reference.model.load().generated_tokens
    assert engine.load().kv_cache_usage == reference.model.load().kv_cache_usage == 0.0


def test_progress_between_the_ends_of_strides_is_reported_as_if_every_step_were_taken() -> None:
    loop = EventLoop()
    told = Told(loop)
    engine = StepEngine(PROFILE, loop, told)
    engine.submit(job("a", 10, 100))
    first_s = PROFILE.decode_base_s + 10 * PROFILE.prefill_s_per_token
    step_s = PROFILE.decode_base_s + PROFILE.decode_s_per_sequence
    loop.run(first_s + 20.5 * step_s)
    engine.flush()
    assert told.counts["a"] == 21
    assert engine.load().generated_tokens == 21
    assert engine.load().kv_cache_usage == (10 + 21) / PROFILE.kv_capacity_tokens


def test_a_killed_engine_has_sent_what_it_had_generated_and_sends_nothing_more() -> None:
    loop = EventLoop()
    told = Told(loop)
    engine = StepEngine(PROFILE, loop, told)
    engine.submit(job("a", 10, 100))
    loop.run(1.0)
    engine.kill()
    sent = told.counts["a"]
    loop.run(100.0)
    assert 0 < sent < 100
    assert told.counts["a"] == sent
    assert "a" not in told.last


def test_a_slow_engine_takes_the_factor_longer_and_a_stalled_one_pauses() -> None:
    def end_of(fault: Any) -> float:
        loop = EventLoop()
        told = Told(loop)
        engine = StepEngine(PROFILE, loop, told)
        loop.at(0.0, fault, engine)
        loop.at(0.1, engine.submit, job("a", 10, 50))
        loop.run(100.0)
        return told.last["a"] - 0.1

    healthy = end_of(lambda engine: None)
    assert end_of(lambda engine: engine.slow_down(10.0)) == pytest.approx(10 * healthy)
    assert end_of(lambda engine: engine.stall(5.0)) == pytest.approx(healthy + 4.9)


def test_only_the_first_calls_of_a_cold_engine_are_late() -> None:
    loop = EventLoop()
    told = Told(loop)
    engine = StepEngine(PROFILE, loop, told)
    engine.be_cold(1, 3.0)
    engine.submit(job("a", 10, 5))
    engine.submit(job("b", 10, 5))
    assert engine.load().running + engine.load().waiting == 2
    loop.run(10.0)
    assert told.first["b"] < 0.1
    assert told.first["a"] > 3.0


def test_mean_lengths_and_costs_give_the_throughput_of_a_full_engine() -> None:
    profile = EngineProfile(kv_capacity_tokens=1_000_000)
    loop = EventLoop()
    told = Told(loop)
    engine = StepEngine(profile, loop, told)
    rng = random.Random(1)
    for name in range(2000):
        engine.submit(job(name, rng.randint(500, 1500), rng.randint(100, 300)))
    loop.run(300.0)
    assert len(told.last) / 300.0 == pytest.approx(profile.requests_per_s(1000, 200), rel=0.05)
