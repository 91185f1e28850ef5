"""Whether and when an answer is asked for once more."""

from __future__ import annotations

import random

import pytest

from serve_app.client.config import ClientConfig
from serve_app.client.errors import Overloaded, Unreachable
from serve_app.client.retries import Retries
from serve_app.resilience.retry import RetryConfig
from serve_app.resilience.retry_budget import RetryBudget, RetryBudgetConfig

BROKEN = Unreachable("It broke.")


class Highest(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def config(max_retries: int = 5, min_retries: int = 3, share: float = 0.0) -> ClientConfig:
    budget = RetryBudgetConfig(share=share, min_retries=min_retries)
    return ClientConfig(
        retry=RetryConfig(max_retries=max_retries, base_delay_s=0.25, max_delay_s=2.0, budget=budget),
        longest_retry_after_s=60.0,
    )


def retries(settings: ClientConfig, budget: RetryBudget | None = None, deadline_at: float | None = None) -> Retries:
    made = Retries(settings, budget or RetryBudget(settings.retry.budget), Highest())
    made.start(deadline_at)
    return made


def test_pauses_double_up_to_their_bound_and_then_the_error_is_raised() -> None:
    tries, now, pauses = retries(config(max_retries=5)), 100.0, []
    for _ in range(5):
        tries.failed(BROKEN, costly=False, now=now)
        pauses.append(tries.pause_s(now))
        now += pauses[-1]
        assert tries.pause_s(now) == 0.0
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0, 2.0])
    with pytest.raises(Unreachable, match="It broke"):
        tries.failed(BROKEN, costly=False, now=now)


def test_pauses_are_drawn_from_all_of_their_range() -> None:
    drawn = []
    for seed in range(200):
        tries = Retries(config(), RetryBudget(RetryBudgetConfig()), random.Random(seed))
        tries.start()
        tries.failed(BROKEN, costly=False, now=0.0)
        drawn.append(tries.pause_s(0.0))
    assert min(drawn) < 0.02
    assert max(drawn) > 0.23
    assert 0.1 < sum(drawn) / len(drawn) < 0.15


def test_something_new_begins_the_count_anew() -> None:
    tries = retries(config(max_retries=1))
    for now in (0.0, 10.0, 20.0):
        tries.failed(BROKEN, costly=False, now=now)
        tries.progressed()
    tries.failed(BROKEN, costly=False, now=30.0)
    with pytest.raises(Unreachable):
        tries.failed(BROKEN, costly=False, now=40.0)


def test_the_server_is_obeyed_on_how_long_to_wait() -> None:
    tries = retries(config())
    tries.failed(Overloaded("Full.", 429, retry_after_s=7.0), costly=True, now=0.0)
    assert tries.pause_s(0.0) == pytest.approx(7.25)


def test_a_wait_beyond_reason_is_left_to_the_caller() -> None:
    with pytest.raises(Overloaded) as raised:
        retries(config()).failed(Overloaded("Full.", 429, retry_after_s=61.0), costly=True, now=0.0)
    assert raised.value.retry_after_s == 61.0


def test_nothing_is_tried_again_after_the_deadline() -> None:
    tries = retries(config(), deadline_at=105.0)
    tries.failed(Overloaded("Full.", 429, retry_after_s=4.0), costly=True, now=100.0)
    with pytest.raises(Overloaded):
        tries.failed(Overloaded("Full.", 429, retry_after_s=4.75), costly=True, now=100.0)


def test_repeats_wait_for_a_place_in_the_budget_and_give_up_without_one() -> None:
    settings = config(max_retries=3, min_retries=1)
    budget = RetryBudget(settings.retry.budget)
    first, second = retries(settings, budget), retries(settings, budget)
    first.failed(BROKEN, costly=True, now=0.0)
    assert first.pause_s(1.0) == 0.0

    second.failed(BROKEN, costly=True, now=0.0)
    assert second.pause_s(1.0) == pytest.approx(0.5)
    assert second.pause_s(1.5) == pytest.approx(1.0)
    with pytest.raises(Unreachable):
        second.pause_s(2.5)


def test_a_place_in_the_budget_is_free_again_once_the_server_has_answered_or_the_stream_is_closed() -> None:
    settings = config(min_retries=1)
    budget = RetryBudget(settings.retry.budget)
    streams = [retries(settings, budget) for _ in range(3)]
    for stream in streams:
        stream.failed(BROKEN, costly=True, now=0.0)
    assert streams[0].pause_s(1.0) == 0.0
    streams[0].answered()
    assert streams[1].pause_s(1.0) == 0.0
    streams[1].close()
    assert streams[2].pause_s(1.0) == 0.0
    for stream in streams:
        stream.close()
        stream.close()
    assert budget.repeated == 0


def test_a_repeat_that_fails_gives_its_place_to_others_while_it_pauses() -> None:
    settings = config(min_retries=1)
    budget = RetryBudget(settings.retry.budget)
    first, second = retries(settings, budget), retries(settings, budget)
    first.failed(BROKEN, costly=True, now=0.0)
    assert first.pause_s(1.0) == 0.0
    first.failed(BROKEN, costly=True, now=2.0)
    second.failed(BROKEN, costly=True, now=0.0)
    assert second.pause_s(2.0) == 0.0


def test_resuming_needs_no_place_in_the_budget() -> None:
    settings = config(min_retries=0)
    tries = retries(settings)
    tries.failed(BROKEN, costly=False, now=0.0)
    assert tries.pause_s(1.0) == 0.0
