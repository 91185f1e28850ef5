from __future__ import annotations

from types import SimpleNamespace

from serve_app.core.engine_status import EngineLoad
from serve_app.engine.vllm.load_meter import LoadMeter


def _scheduler(running: int, usage: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(num_running_reqs=running, kv_cache_usage=usage)


def _iteration(tokens: int) -> SimpleNamespace:
    return SimpleNamespace(num_generation_tokens=tokens)


def test_a_new_meter_shows_an_idle_engine() -> None:
    assert LoadMeter().load() == EngineLoad()


def test_steps_and_tokens_add_up_and_the_rest_is_the_latest() -> None:
    meter = LoadMeter()
    meter.add_sequences(3)
    meter.record(0, _scheduler(3, 0.5), _iteration(3))
    meter.record(0, _scheduler(2, 0.25), _iteration(2))
    assert meter.load() == EngineLoad(running=2, waiting=1, kv_cache_usage=0.25, steps=2, generated_tokens=5)


def test_sequences_that_no_scheduler_has_seen_are_waiting() -> None:
    meter = LoadMeter()
    meter.add_sequences(2)
    assert (meter.load().running, meter.load().waiting) == (0, 2)


def test_sequences_that_are_done_do_not_wait_though_the_scheduler_still_counts_them() -> None:
    meter = LoadMeter()
    meter.add_sequences(2)
    meter.record(0, _scheduler(2), _iteration(2))
    meter.add_sequences(-2)
    assert (meter.load().running, meter.load().waiting) == (2, 0)


def test_ranks_are_summed_and_the_fullest_cache_counts() -> None:
    meter = LoadMeter()
    meter.record(0, _scheduler(1, 0.1), _iteration(1))
    meter.record(1, _scheduler(2, 0.7), _iteration(2))
    load = meter.load()
    assert (load.running, load.kv_cache_usage, load.generated_tokens) == (3, 0.7, 3)


def test_step_without_output_is_no_step_but_its_scheduler_counts() -> None:
    meter = LoadMeter()
    meter.record(0, _scheduler(1), _iteration(1))
    meter.record(0, _scheduler(0), None)
    assert (meter.load().running, meter.load().steps) == (0, 1)


def test_statistics_without_the_known_fields_are_no_error() -> None:
    meter = LoadMeter()
    meter.record(0, SimpleNamespace(), SimpleNamespace())
    meter.record(0, None, None)
    assert meter.load().steps == 1
