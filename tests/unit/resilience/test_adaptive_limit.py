from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.resilience.adaptive_limit import AdaptiveLimit, AdaptiveLimitConfig

CONFIG = AdaptiveLimitConfig()
CAPACITY = 256


class Engine:
    """Reports ten times a second to a limit, whatever the test says of its load."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.limit = AdaptiveLimit(CONFIG, capacity, 0.0)
        self.capacity = capacity
        self.now = 0.0

    def report(self, seconds: float, running: int, waiting: int = 0, kv: float = 0.1, in_use: int | None = None) -> int:
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            total = running + waiting if in_use is None else in_use
            self.limit.reported(running, waiting, kv, total, self.capacity, self.now)
        return self.limit.limit


def test_it_starts_at_the_capacity_that_the_engine_states() -> None:
    assert Engine().limit.limit == CAPACITY


def test_full_batch_without_a_queue_keeps_the_whole_capacity() -> None:
    assert Engine().report(60, running=CAPACITY, kv=0.8) == CAPACITY


def test_standing_queue_brings_the_limit_to_what_the_engine_runs() -> None:
    limit = Engine().report(2.0, running=64, waiting=192)

    assert 64 < limit <= 64 * 1.05 + 1


def test_one_interval_takes_at_most_half() -> None:
    assert Engine().report(0.6, running=8, waiting=248) == CAPACITY // 2


def test_burst_that_the_engine_works_off_within_the_interval_changes_nothing() -> None:
    engine = Engine()

    for _ in range(20):
        engine.report(0.1, running=200, waiting=50)
        limit = engine.report(0.2, running=200, waiting=0)

    assert limit == CAPACITY


def test_queue_beside_a_growing_batch_is_prefill_at_work_and_changes_nothing() -> None:
    engine = Engine()

    for running in range(10, 250, 4):
        limit = engine.report(0.1, running=running, waiting=250 - running)

    assert limit == CAPACITY


def test_full_kv_cache_lowers_the_limit_below_what_is_in_use() -> None:
    limit = Engine().report(0.6, running=100, kv=0.97)

    assert limit == int(0.85 * 100)


def test_limit_does_not_collapse_while_running_streams_take_their_time() -> None:
    assert Engine().report(20.0, running=100, kv=0.97) == int(0.85 * 100)


def test_limit_rises_step_by_step_once_calm_and_used() -> None:
    engine = Engine()
    low = engine.report(2.0, running=64, waiting=192)

    limits = [engine.report(0.6, running=engine.limit.limit) for _ in range(3)]

    assert limits == [low + 16, low + 32, low + 48]


def test_unused_limit_does_not_rise() -> None:
    engine = Engine()
    engine.report(2.0, running=64, waiting=192)
    low = engine.report(0.6, running=5)

    assert engine.report(30.0, running=5) == low < CAPACITY


def test_limit_does_not_rise_while_the_kv_cache_is_nearly_full() -> None:
    engine = Engine()
    low = engine.report(2.0, running=64, waiting=192)

    assert engine.report(30.0, running=low, kv=0.93) == low


def test_refusal_lowers_the_limit_once_in_an_interval() -> None:
    engine = Engine()

    for _ in range(50):
        engine.limit.overloaded()
    limit = engine.report(0.6, running=100)

    assert limit == 85
    assert engine.limit.congested


def first_tokens(engine: Engine, ttft_s: float, prompt_tokens: int) -> None:
    for _ in range(5):
        engine.limit.first_token(ttft_s, prompt_tokens)
    engine.report(0.6, running=engine.limit.limit)


def test_slow_first_tokens_lower_the_limit_of_an_engine_that_reports_nothing_else() -> None:
    engine = Engine()
    for _ in range(5):
        first_tokens(engine, 0.05, 200)
    before = engine.limit.limit

    first_tokens(engine, 1.0, 200)

    assert engine.limit.limit < before


def test_long_prompts_are_not_mistaken_for_slow_first_tokens() -> None:
    engine = Engine()
    for _ in range(5):
        first_tokens(engine, 0.05, 200)

    first_tokens(engine, 1.5, 16_000)

    assert engine.limit.limit == CAPACITY


def test_fastest_first_token_of_long_ago_is_forgotten() -> None:
    engine = Engine()
    first_tokens(engine, 0.01, 200)
    for _ in range(300):
        first_tokens(engine, 0.2, 200)

    engine.report(20.0, running=CAPACITY)
    first_tokens(engine, 0.2, 200)

    assert not engine.limit.congested


def test_engine_is_full_with_a_queue_or_a_full_cache() -> None:
    limit = Engine().limit

    assert not limit.is_full(running=100, waiting=5, kv_cache_usage=0.5)
    assert limit.is_full(running=100, waiting=6, kv_cache_usage=0.5)
    assert limit.is_full(running=1, waiting=0, kv_cache_usage=0.9)


def test_unbounded_limit_follows_a_larger_capacity_and_any_limit_a_smaller_one() -> None:
    engine = Engine(64)

    engine.capacity = 128
    larger = engine.report(0.1, running=1)
    engine.capacity = 16
    smaller = engine.report(0.1, running=1)

    assert (larger, smaller) == (128, 16)


@given(
    st.integers(1, 300),
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.integers(0, 300),
            st.floats(0, 1.2),
            st.integers(0, 300),
            st.integers(1, 300),
            st.floats(0, 3),
            st.booleans(),
            st.floats(0, 20),
        ),
        max_size=60,
    ),
)
def test_limit_stays_between_its_minimum_and_the_capacity(
    capacity: int, reports: list[tuple[int, int, float, int, int, float, bool, float]]
) -> None:
    limit = AdaptiveLimit(CONFIG, capacity, 0.0)
    now = 0.0
    for running, waiting, kv, in_use, capacity, seconds, refused, ttft_s in reports:
        now += seconds
        if refused:
            limit.overloaded()
        for _ in range(3):
            limit.first_token(ttft_s, 100)
        limit.reported(running, waiting, kv, in_use, capacity, now)
        assert CONFIG.min_limit <= limit.limit <= capacity
