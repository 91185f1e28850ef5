from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.resilience.retry_budget import RetryBudget, RetryBudgetConfig


def budget(in_flight: int, share: float = 0.2, min_retries: int = 3) -> RetryBudget:
    made = RetryBudget(RetryBudgetConfig(share=share, min_retries=min_retries))
    made.in_flight(in_flight)
    return made


def test_three_retries_may_always_run_at_once() -> None:
    idle = budget(0)
    assert [idle.try_take(1000) for _ in range(4)] == [True, True, True, False]
    idle.give_back(1000)
    assert idle.try_take(1000)


def test_beyond_the_minimum_a_share_of_the_tokens_in_flight_may_be_repeated() -> None:
    busy = budget(10_000)
    assert [busy.try_take(500) for _ in range(5)] == [True, True, True, True, False]
    assert busy.left == 0.0
    busy.in_flight(2500)
    assert busy.left == 500.0
    assert busy.try_take(500)


def test_a_large_repeat_waits_where_a_small_one_passes() -> None:
    busy = budget(10_000, min_retries=0)
    assert not busy.try_take(2001)
    assert busy.try_take(2000)


def test_calm_times_save_nothing_up() -> None:
    calm = budget(1_000_000)
    calm.in_flight(-1_000_000)
    assert [calm.try_take(10) for _ in range(4)] == [True, True, True, False]


def test_a_share_and_a_minimum_of_zero_forbid_repeats() -> None:
    assert not budget(1_000_000, share=0.0, min_retries=0).try_take(1)


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "take", "back"]), st.integers(1, 1000)), max_size=200))
def test_repeats_beyond_the_minimum_were_within_the_share_when_taken(steps: list[tuple[str, int]]) -> None:
    subject = budget(0)
    flying: list[int] = []
    taken: list[int] = []
    for step, tokens in steps:
        if step == "begin":
            subject.in_flight(tokens)
            flying.append(tokens)
        elif step == "end" and flying:
            subject.in_flight(-flying.pop())
        elif step == "back" and taken:
            subject.give_back(taken.pop(0))
        elif step == "take":
            allowed = len(taken) < 3 or sum(taken) + tokens <= 0.2 * sum(flying)
            assert subject.try_take(tokens) is allowed
            if allowed:
                taken.append(tokens)
        assert subject.repeated == sum(taken)
        assert subject.left == max(0.2 * sum(flying) - sum(taken), 0.0)
