from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import EngineFailed
from serve_app.core.events import Finished, StreamEvent, TokenDelta
from serve_app.core.request import Sampling
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.model import SimulatedModel
from serve_app.engine.simulated.sequence import Job
from tests.support.generations import known


class Stream:
    """One submitted request and what it emitted when."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.job: Job
        self.events: list[tuple[float, StreamEvent]] = []

    def __call__(self, event: StreamEvent) -> None:
        self.events.append((self._machine.now, event))

    @property
    def times(self) -> list[float]:
        """When each token came."""
        return [round(time, 9) for time, event in self.events if isinstance(event, TokenDelta)]

    @property
    def tokens(self) -> list[tuple[int, int]]:
        """Choice and id of each token."""
        return [(event.choice, known(event.token_ids)[0]) for _, event in self.events if isinstance(event, TokenDelta)]

    @property
    def outputs(self) -> dict[int, list[int]]:
        """Token ids of each choice."""
        return {wanted: [token for choice, token in self.tokens if choice == wanted] for wanted, _ in self.tokens}

    @property
    def ends(self) -> list[Finished]:
        """The `Finished` events."""
        return [event for _, event in self.events if isinstance(event, Finished)]


class Machine:
    """A model driven through virtual time. By default a step takes 1 s and nothing else costs."""

    def __init__(self, **config: Any) -> None:
        args = {
            "max_model_len": 256,
            "decode_base_s": 1.0,
            "decode_s_per_sequence": 0.0,
            "prefill_s_per_token": 0.0,
            "kv_capacity_tokens": 4096,
            **config,
        }
        self.model = SimulatedModel(SimulatedEngineConfig.model_validate(args))
        self.now = 0.0
        self.kv_peak = 0.0
        self._due: float | None = None

    def submit(self, prompt_tokens: int = 10, max_tokens: int = 3, first: int = 50, n: int = 1) -> Stream:
        """A prompt of `first` and then always the same ids."""
        stream = Stream(self)
        ids = [first] + [60] * (prompt_tokens - 1)
        sampling = Sampling(ignore_eos=True, n=n)
        stream.job = self.model.submit(ids, sampling, max_tokens, stream)
        return stream

    def run(self, until: float = math.inf) -> None:
        """Step until nothing is left to do or `until` has come."""
        while True:
            if self._due is None:
                duration = self.model.begin_step(self.now)
                if duration is None:
                    return
                self._due = self.now + duration
            if self._due > until:
                self.now = until
                return
            self.now, self._due = self._due, None
            self.model.finish_step(self.now)
            self.kv_peak = max(self.kv_peak, self.model.load().kv_cache_usage)


def test_first_token_comes_after_prefill_and_one_step_each_later_one_after_a_decode_step() -> None:
    machine = Machine(prefill_s_per_token=0.1, decode_s_per_sequence=0.5)
    stream = machine.submit(prompt_tokens=20)
    machine.run()
    assert stream.times == [3.0, 4.5, 6.0]


def test_decode_step_grows_with_the_batch() -> None:
    machine = Machine(decode_s_per_sequence=0.5)
    streams = [machine.submit(first=first) for first in range(4)]
    machine.run()
    assert all(stream.times == [1.0, 4.0, 7.0] for stream in streams)


def test_fixed_step_gives_every_stream_the_same_pace_whatever_the_load() -> None:
    machine = Machine(step_s=0.02, prefill_s_per_token=1, decode_s_per_sequence=1)
    streams = [machine.submit(first=first, max_tokens=50) for first in range(64)]
    machine.run()
    assert all(stream.times == [round(0.02 * step, 9) for step in range(1, 51)] for stream in streams)


def test_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    machine = Machine(prefill_chunk_tokens=10, prefill_s_per_token=0.1)
    short = machine.submit(prompt_tokens=10, max_tokens=6)
    machine.run(until=2.0)
    long = machine.submit(prompt_tokens=30, max_tokens=1)
    machine.run()
    assert short.times == [2.0, 3.0, 5.0, 7.0, 9.0, 10.0]
    assert long.times == [9.0]


def test_sequences_beyond_max_running_wait_in_arrival_order() -> None:
    machine = Machine(max_running=2)
    streams = [machine.submit(first=first) for first in range(4)]
    machine.run(until=0.5)
    assert (machine.model.load().running, machine.model.load().waiting) == (2, 2)
    machine.run()
    assert [stream.times[0] for stream in streams] == [1.0, 1.0, 4.0, 4.0]


def test_sequence_that_does_not_fit_the_kv_cache_waits_until_one_has_ended() -> None:
    machine = Machine(max_model_len=100, kv_capacity_tokens=100)
    first = machine.submit(prompt_tokens=60, max_tokens=4)
    second = machine.submit(prompt_tokens=60, max_tokens=1, first=51)
    machine.run()
    assert first.times == [1.0, 2.0, 3.0, 4.0]
    assert second.times == [5.0]


def test_waiting_sequence_is_not_overtaken_by_a_smaller_one() -> None:
    machine = Machine(max_model_len=100, kv_capacity_tokens=100)
    machine.submit(prompt_tokens=60, max_tokens=4)
    large = machine.submit(prompt_tokens=60, max_tokens=1, first=51)
    small = machine.submit(prompt_tokens=5, max_tokens=1, first=52)
    machine.run()
    assert large.times == small.times == [5.0]


def test_youngest_is_preempted_when_the_kv_cache_is_full_and_goes_on_after_recomputing() -> None:
    alone = Machine()
    expected = [alone.submit(prompt_tokens=10, max_tokens=8, first=first) for first in (50, 51)]
    alone.run()
    machine = Machine(max_model_len=26, kv_capacity_tokens=26, prefill_s_per_token=0.01, prefix_cache_tokens=0)
    old, young = [machine.submit(prompt_tokens=10, max_tokens=8, first=first) for first in (50, 51)]
    machine.run()
    assert old.times == [1.2, 2.2, 3.2, 4.2, 5.2, 6.2, 7.2, 8.2]
    # Three tokens each fill the cache; the younger waits for the older's end and computes its 13 tokens again.
    assert young.times == [1.2, 2.2, 3.2, 9.33, 10.33, 11.33, 12.33, 13.33]
    assert [old.tokens, young.tokens] == [stream.tokens for stream in expected]
    assert machine.model.load().kv_cache_usage == 0


def test_preempted_sequence_computes_all_its_tokens_again_and_waits_ahead_of_newer_ones() -> None:
    machine = Machine(max_model_len=26, kv_capacity_tokens=26, prefill_s_per_token=0.01, prefix_block_tokens=4)
    old, young = [machine.submit(prompt_tokens=10, max_tokens=8, first=first) for first in (50, 51)]
    newer = machine.submit(prompt_tokens=16, max_tokens=1, first=52)
    machine.run()
    assert len(old.times) == 8
    assert young.times[3] == 9.33
    assert newer.times[0] > young.times[-1]
    assert young.ends[0].cached_tokens == 0


def test_cached_prefix_is_not_computed_again() -> None:
    machine = Machine(prefill_s_per_token=0.1, prefix_block_tokens=16)
    first = machine.submit(prompt_tokens=40, max_tokens=1)
    machine.run()
    second = machine.submit(prompt_tokens=40, max_tokens=1)
    machine.run()
    assert first.times == [5.0]
    assert second.times == [5.0 + 1 + 0.8]
    assert [stream.ends[0].cached_tokens for stream in (first, second)] == [0, 32]
    assert first.tokens == second.tokens


def test_engine_is_cold_until_its_first_requests_have_completed() -> None:
    machine = Machine(cold_requests=1, cold_factor=5)
    first = machine.submit(max_tokens=2)
    machine.run()
    second = machine.submit(max_tokens=2)
    machine.run()
    assert first.times == [5.0, 10.0]
    assert second.times == [11.0, 12.0]


def test_requests_that_only_run_do_not_warm_the_engine() -> None:
    machine = Machine(cold_requests=1, cold_factor=5)
    streams = [machine.submit(max_tokens=2, first=first) for first in (50, 51)]
    machine.run()
    assert all(stream.times == [5.0, 10.0] for stream in streams)


def test_engine_is_cold_for_its_first_seconds() -> None:
    machine = Machine(cold_s=6.0, cold_factor=5)
    stream = machine.submit(max_tokens=4)
    machine.run()
    assert stream.times == [5.0, 10.0, 11.0, 12.0]


def test_all_choices_run_side_by_side_and_the_job_ends_with_the_last() -> None:
    machine = Machine()
    stream = machine.submit(max_tokens=12, n=3)
    machine.run(until=1.5)
    assert machine.model.load().running == 3
    assert machine.model.take_ended() == []
    machine.run()
    assert machine.model.take_ended() == [stream.job]
    assert machine.model.take_ended() == []
    assert sorted(end.choice for end in stream.ends) == [0, 1, 2]
    assert len({tuple(ids) for ids in stream.outputs.values()}) == 3


def test_load_counts_steps_tokens_and_the_kv_cache() -> None:
    machine = Machine(max_model_len=100, kv_capacity_tokens=100)
    machine.submit(prompt_tokens=10, max_tokens=5)
    machine.submit(prompt_tokens=10, max_tokens=2, first=51)
    machine.run(until=1.0)
    load = machine.model.load()
    assert (load.running, load.steps, load.generated_tokens) == (2, 1, 2)
    assert load.kv_cache_usage == pytest.approx(0.22)
    machine.run()
    load = machine.model.load()
    assert (load.running, load.waiting, load.steps, load.generated_tokens) == (0, 0, 5, 7)
    assert load.kv_cache_usage == 0


@pytest.mark.parametrize("until", [0.0, 0.5, 1.0, 1.5])
def test_aborted_job_leaves_nothing_behind(until: float) -> None:
    machine = Machine(max_running=2, prefill_chunk_tokens=4)
    doomed = machine.submit(prompt_tokens=6, max_tokens=100, n=3)
    if until:
        machine.run(until)
    machine.model.abort(doomed.job)
    events = len(doomed.events)
    load = machine.model.load()
    assert (load.running, load.waiting, load.kv_cache_usage) == (0, 0, 0)
    other = machine.submit()
    machine.run()
    assert len(other.times) == 3
    assert len(doomed.events) == events
    assert machine.model.take_ended() == [other.job]


@pytest.mark.parametrize("token", [0, 2])
def test_request_error_ends_all_its_choices_at_its_token_and_no_other_request(token: int) -> None:
    machine = Machine(faults={"requests": [{"kind": "error", "request": 1, "token": token}]})
    doomed = machine.submit(max_tokens=5, n=2)
    other = machine.submit(max_tokens=5, first=51)
    machine.run()
    assert len([choice for choice, _ in doomed.tokens if choice == 0]) == token
    assert doomed.ends == []
    assert isinstance(doomed.job.error, EngineFailed)
    assert len(other.times) == 5
    assert set(machine.model.take_ended()) == {doomed.job, other.job}
    assert machine.model.load().kv_cache_usage == 0


def test_stalled_request_pauses_and_goes_on_while_others_do_not_notice() -> None:
    machine = Machine(faults={"requests": [{"kind": "stall", "request": 1, "token": 1, "stall_s": 3.5}]})
    stalled = machine.submit(max_tokens=3)
    other = machine.submit(max_tokens=4, first=51)
    machine.run()
    assert stalled.times == [1.0, 7.0, 8.0]
    assert other.times == [1.0, 2.0, 3.0, 4.0]
    assert machine.model.load().steps == 6


def test_stall_of_no_time_changes_nothing() -> None:
    machine = Machine(faults={"requests": [{"kind": "stall", "request": 1, "token": 1}]})
    stream = machine.submit(max_tokens=3)
    machine.run()
    assert stream.times == [1.0, 2.0, 3.0]
    assert machine.model.take_ended() == [stream.job]


def test_crash_fails_everything_and_lasts() -> None:
    machine = Machine(max_running=2, faults={"requests": [{"kind": "crash", "request": 2, "token": 1}]})
    streams = [machine.submit(first=first) for first in range(3)]
    machine.run()
    assert [len(stream.times) for stream in streams] == [2, 1, 0]
    assert {stream.job for stream in streams} == set(machine.model.take_ended())
    assert all(isinstance(stream.job.error, EngineFailed) for stream in streams)
    load = machine.model.load()
    assert (load.running, load.waiting, load.kv_cache_usage) == (0, 0, 0)
    with pytest.raises(EngineFailed):
        machine.model.check(machine.now)


def test_request_that_has_ended_in_the_step_of_a_crash_has_not_failed() -> None:
    machine = Machine(faults={"requests": [{"kind": "crash", "request": 2, "token": 1}]})
    lucky = machine.submit(max_tokens=2)
    doomed = machine.submit(max_tokens=2, first=51)
    machine.run()
    assert len(lucky.ends) == 1
    assert lucky.job.error is None
    assert machine.model.take_ended() == [lucky.job, doomed.job]


def test_timed_crash_strikes_a_working_and_an_idle_engine() -> None:
    faults = {"timed": [{"kind": "crash", "after_s": 2.5}]}
    machine = Machine(faults=faults)
    stream = machine.submit(max_tokens=9)
    machine.run()
    assert stream.times == [1.0, 2.0, 3.0]
    assert machine.model.take_ended() == [stream.job]
    idle = Machine(faults=faults).model
    idle.check(2.4)
    with pytest.raises(EngineFailed):
        idle.check(2.5)


def test_ages_count_from_the_start() -> None:
    model = Machine(faults={"timed": [{"kind": "crash", "after_s": 2.5}]}).model
    model.start(100.0)
    model.check(102.4)
    with pytest.raises(EngineFailed):
        model.check(102.5)


def test_timed_slow_down_and_stall_stretch_the_steps() -> None:
    timed = [
        {"kind": "slow", "after_s": 1, "for_s": 2, "factor": 2},
        {"kind": "stall", "after_s": 4.5, "for_s": 2},
    ]
    machine = Machine(faults={"timed": timed})
    stream = machine.submit(max_tokens=5)
    machine.run()
    assert stream.times == [1.0, 3.0, 4.0, 6.5, 7.5]


_requests = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 2), st.floats(0, 10)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(_requests, st.integers(1, 6), st.integers(60, 120), st.integers(1, 64))
def test_any_load_completes_within_the_kv_cache_with_the_outputs_of_an_empty_engine(
    requests: list[tuple[int, int, int, float]], max_running: int, kv_tokens: int, chunk: int
) -> None:
    machine = Machine(
        max_model_len=60, kv_capacity_tokens=kv_tokens, max_running=max_running, prefill_chunk_tokens=chunk
    )
    streams = []
    expected = []
    for number, (prompt_tokens, max_tokens, n, at) in enumerate(sorted(requests, key=lambda one: one[3])):
        machine.run(until=max(at, machine.now))
        machine.now = max(at, machine.now)
        streams.append(machine.submit(prompt_tokens, max_tokens, number, n))
        alone = Machine()
        expected.append(alone.submit(prompt_tokens, max_tokens, number, n))
        alone.run()
    machine.run()
    assert [stream.outputs for stream in streams] == [stream.outputs for stream in expected]
    assert machine.kv_peak <= 1
    load = machine.model.load()
    assert (load.running, load.waiting, load.kv_cache_usage) == (0, 0, 0)
