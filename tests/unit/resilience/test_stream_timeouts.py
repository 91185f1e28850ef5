from __future__ import annotations

import pytest

from serve_app.resilience.stream_timeouts import StreamTimeouts, StreamTimeoutsConfig

CONFIG = StreamTimeoutsConfig()


def learned(ttfts: list[tuple[float, int]], config: StreamTimeoutsConfig = CONFIG) -> StreamTimeouts:
    timeouts = StreamTimeouts(config)
    for ttft_s, prompt_tokens in ttfts:
        timeouts.learn_first_token(ttft_s, prompt_tokens, 0.0)
    return timeouts


def test_without_observations_the_floors_count() -> None:
    timeouts = StreamTimeouts(CONFIG)
    assert timeouts.first_token_s(0, False, 0.0) == CONFIG.first_token_floor_s
    assert timeouts.first_token_s(0, True, 0.0) == CONFIG.first_token_cold_floor_s
    assert timeouts.stall_s(0.0) == CONFIG.stall_floor_s


@pytest.mark.parametrize("cold", [False, True])
def test_a_long_prompt_is_given_its_time_before_anything_was_observed(cold: bool) -> None:
    timeouts = StreamTimeouts(CONFIG)
    assert timeouts.first_token_s(30_000, cold, 0.0) == timeouts.first_token_s(0, cold, 0.0) + 60.0


def test_few_observations_leave_the_floors() -> None:
    timeouts = learned([(20.0, 0)] * (CONFIG.min_samples - 1))
    assert timeouts.first_token_s(0, False, 0.0) == CONFIG.first_token_floor_s
    timeouts.learn_first_token(20.0, 0, 1.0)
    assert timeouts.first_token_s(0, False, 1.0) == pytest.approx(CONFIG.factor * 20.0)


def test_fast_observations_do_not_go_below_the_floors() -> None:
    timeouts = learned([(0.05, 100)] * 100)
    assert timeouts.first_token_s(0, False, 0.0) == CONFIG.first_token_floor_s
    assert timeouts.first_token_s(0, True, 0.0) == CONFIG.first_token_cold_floor_s


def test_the_timeout_grows_with_the_prompt_as_observed() -> None:
    timeouts = learned([(8.0, 512)] * 100)
    assert timeouts.first_token_s(512, False, 0.0) == pytest.approx(24.0)
    assert timeouts.first_token_s(1536, False, 0.0) == pytest.approx(48.0)


def test_rare_slow_first_tokens_do_not_move_the_timeout() -> None:
    timeouts = learned([(100.0, 0)] * 4 + [(8.0, 0)] * 96)
    assert timeouts.first_token_s(0, False, 0.0) == pytest.approx(24.0)


def test_no_wait_is_longer_than_its_ceiling() -> None:
    timeouts = learned([(500.0, 0)] * 100)
    assert timeouts.first_token_s(10**9, True, 0.0) == CONFIG.first_token_ceiling_s
    for _ in range(100):
        timeouts.learn_gap(500.0, 0.0)
    assert timeouts.stall_s(0.0) == CONFIG.stall_ceiling_s


def test_observations_are_forgotten_after_their_window() -> None:
    timeouts = learned([(20.0, 0)] * 100)
    assert timeouts.first_token_s(0, False, CONFIG.window_s) == pytest.approx(60.0)
    assert timeouts.first_token_s(0, False, CONFIG.window_s + 1.0) == CONFIG.first_token_floor_s


def test_timeouts_without_one_timely_first_token_double_the_wait() -> None:
    timeouts = StreamTimeouts(CONFIG)
    waits = []
    for _ in range(80):
        waits.append(timeouts.first_token_s(0, False, 0.0))
        timeouts.first_token_timed_out()
    assert waits[:8] == [10.0] * 8
    assert waits[8] == 20.0
    assert waits[16] == 40.0
    assert waits[-1] == 160.0


def test_timeouts_of_one_dead_replica_among_live_ones_change_nothing() -> None:
    timeouts = StreamTimeouts(CONFIG)
    for _ in range(50):
        timeouts.first_token_timed_out()
        timeouts.learn_first_token(0.2, 100, 0.0)
    assert timeouts.first_token_s(0, False, 0.0) == CONFIG.first_token_floor_s


def test_a_first_token_that_only_the_longer_wait_let_live_does_not_shorten_it() -> None:
    timeouts = StreamTimeouts(CONFIG)
    for _ in range(8):
        timeouts.first_token_timed_out()
    timeouts.learn_first_token(15.0, 0, 0.0)
    assert timeouts.first_token_s(0, False, 0.0) == 20.0
    timeouts.learn_first_token(9.0, 0, 0.0)
    assert timeouts.first_token_s(0, False, 0.0) == 10.0


def test_long_silences_that_ended_by_themselves_are_no_stalls() -> None:
    timeouts = StreamTimeouts(CONFIG)
    for gap_s in [0.1] * 95 + [4.0] * 5:
        timeouts.learn_gap(gap_s, 0.0)
    assert timeouts.stall_s(0.0) == pytest.approx(12.0)
