from __future__ import annotations

from serve_app.resilience.slowness import Slowness, SlownessConfig, Speed

CONFIG = SlownessConfig()


class Pool:
    """Some replicas, all judged as established ones unless a test says otherwise."""

    def __init__(self, size: int) -> None:
        self.slowness = Slowness(CONFIG)
        self.speeds = [self.slowness.new_speed() for _ in range(size)]
        self.now = 0.0
        self.number = 0
        for speed in self.speeds:
            speed.unproven = False

    def first_tokens(self, speed: Speed, ttft_s: float, times: int = 8, prompt_tokens: int = 200) -> None:
        for _ in range(times):
            self.slowness.first_token(speed, ttft_s, prompt_tokens, self.now)

    def wait(self, speed: Speed, attempts: int, prompt_tokens: int = 200) -> None:
        for _ in range(attempts):
            self.number += 1
            speed.awaiting[self.number] = (self.now, prompt_tokens)

    def step(self, speed: Speed, step_s: float, seconds: float, running: int = 8) -> None:
        now = self.now
        while now < self.now + seconds:
            now += 0.1
            speed.stepped(int(now / step_s), running, CONFIG.pace_window_s, now)

    def looks_slow(self) -> list[int]:
        """Who looks slow at this one look."""
        self.slowness.find_slow(self.speeds, self.now)
        return [i for i, speed in enumerate(self.speeds) if speed.slow_since is not None]

    def slow(self, after_s: float = CONFIG.sustained_s) -> list[int]:
        """Who has looked slow all the time until `after_s` from now."""
        self.slowness.find_slow(self.speeds, self.now)
        self.now += after_s
        found = self.slowness.find_slow(self.speeds, self.now)
        return [next(i for i, s in enumerate(self.speeds) if s is speed) for speed in found]


def test_replica_with_first_tokens_far_above_the_others_is_slow() -> None:
    pool = Pool(8)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, 2.0 if i == 3 else 0.2)

    assert pool.slow() == [3]


def test_replicas_that_differ_as_load_makes_them_differ_are_not_slow() -> None:
    pool = Pool(8)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, 0.2 * (1 + i / 4))

    assert pool.slow() == []


def test_one_of_two_replicas_can_be_slow() -> None:
    pool = Pool(2)
    pool.first_tokens(pool.speeds[0], 2.0)
    pool.first_tokens(pool.speeds[1], 0.2)

    assert pool.slow() == [0]


def test_single_replica_has_nothing_to_be_compared_with() -> None:
    pool = Pool(1)
    pool.first_tokens(pool.speeds[0], 20.0)

    assert pool.slow() == []


def test_long_prompts_do_not_make_a_replica_slow() -> None:
    pool = Pool(4)
    for speed in pool.speeds:
        pool.first_tokens(speed, 0.1, times=20, prompt_tokens=100)
        pool.first_tokens(speed, 2.0, times=20, prompt_tokens=8000)
    pool.first_tokens(pool.speeds[0], 2.0, prompt_tokens=8000)
    for speed in pool.speeds[1:]:
        pool.first_tokens(speed, 0.1, prompt_tokens=100)

    assert pool.slow() == []


def test_few_slow_first_tokens_say_little_of_an_established_replica() -> None:
    pool = Pool(4)
    for speed in pool.speeds[1:]:
        pool.first_tokens(speed, 0.2)
    pool.first_tokens(pool.speeds[0], 2.0, times=CONFIG.min_samples - 1)

    assert pool.slow() == []


def test_replica_that_looks_slow_for_a_moment_is_not() -> None:
    pool = Pool(4)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, 2.0 if i == 0 else 0.2)

    assert pool.slow(after_s=1.9) == []
    pool.first_tokens(pool.speeds[0], 0.2)
    assert pool.slow(after_s=0.1) == []
    pool.first_tokens(pool.speeds[0], 2.0)

    assert pool.slow(after_s=1.9) == []


def test_first_tokens_of_an_engine_with_a_queue_tell_nothing_of_its_speed() -> None:
    pool = Pool(4)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, 2.0 if i == 0 else 0.2)
    pool.speeds[0].queueing = True

    assert pool.slow() == []


def test_one_slow_first_token_among_fast_ones_is_forgiven() -> None:
    pool = Pool(4)
    for speed in pool.speeds:
        pool.first_tokens(speed, 0.2)
    pool.first_tokens(pool.speeds[0], 9.0, times=1)

    assert pool.slow() == []


def test_attempts_that_still_wait_count_with_the_time_they_have_waited() -> None:
    pool = Pool(4)
    for speed in pool.speeds:
        pool.first_tokens(speed, 0.2)
    pool.wait(pool.speeds[2], attempts=5)

    pool.now = 0.7
    assert pool.looks_slow() == []
    pool.now = 0.9

    assert pool.looks_slow() == [2]


def test_attempts_that_wait_with_long_prompts_are_given_longer() -> None:
    pool = Pool(4)
    for speed in pool.speeds:
        pool.first_tokens(speed, 0.2, prompt_tokens=100)
        pool.first_tokens(speed, 4.0, prompt_tokens=8000)
    pool.wait(pool.speeds[2], attempts=8, prompt_tokens=8000)

    pool.now = 10.0

    assert pool.looks_slow() == []


def test_attempts_from_before_the_replica_started_over_are_not_held_against_it() -> None:
    pool = Pool(4)
    for speed in pool.speeds:
        pool.first_tokens(speed, 0.2)
    pool.wait(pool.speeds[2], attempts=8)
    pool.now = 5.0

    pool.speeds[2].clear(pool.now)

    assert pool.looks_slow() == []


def test_ramping_replica_is_slow_by_its_first_cold_answer() -> None:
    pool = Pool(4)
    for speed in pool.speeds[:3]:
        pool.first_tokens(speed, 0.3)
    pool.wait(pool.speeds[3], attempts=1)
    pool.now = 1.3

    assert pool.slow(after_s=0.0) == []
    pool.speeds[3].unproven = True

    assert pool.slow(after_s=0.0) == [3]


def test_first_tokens_that_nobody_would_notice_are_never_slow() -> None:
    pool = Pool(4)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, 0.04 if i == 0 else 0.002)

    assert pool.slow() == []
    assert not pool.slowness.is_slow_first_token(0.04, 200)


def test_replica_whose_steps_take_much_longer_is_slow_before_any_stream_ends() -> None:
    pool = Pool(8)
    for i, speed in enumerate(pool.speeds):
        pool.step(speed, step_s=0.2 if i == 5 else 0.02, seconds=4.0)
    pool.now = 4.0

    assert pool.slow() == [5]


def test_idle_time_is_not_counted_as_slow_steps() -> None:
    pool = Pool(2)
    speed = pool.speeds[0]
    for second in range(10):
        pool.now = float(second)
        speed.stepped(second * 50, 0, CONFIG.pace_window_s, pool.now)
        speed.stepped(second * 50, 8, CONFIG.pace_window_s, pool.now + 0.5)
        speed.stepped(second * 50 + 25, 8, CONFIG.pace_window_s, pool.now + 1.0)

    assert speed.pace
    assert all(abs(step_s - 0.02) < 1e-9 for _, step_s, _ in speed.pace)


def test_finished_streams_with_slow_tokens_make_a_replica_slow() -> None:
    pool = Pool(4)
    for i, speed in enumerate(pool.speeds):
        speed.tpot.extend([(0.0, 0.3 if i == 1 else 0.03, 0)] * 4)

    assert pool.slow() == [1]
    assert pool.slowness.is_slow_tpot(0.3)
    assert not pool.slowness.is_slow_tpot(0.05)


def test_slowest_replica_comes_first() -> None:
    pool = Pool(8)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, {2: 2.0, 6: 4.0}.get(i, 0.2))

    assert pool.slow() == [6, 2]


def test_old_observations_no_longer_count() -> None:
    pool = Pool(4)
    for i, speed in enumerate(pool.speeds):
        pool.first_tokens(speed, 2.0 if i == 0 else 0.2)

    pool.now = CONFIG.max_age_s + 1
    for speed in pool.speeds[1:]:
        pool.first_tokens(speed, 0.2)

    assert pool.slow() == []
