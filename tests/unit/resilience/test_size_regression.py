"""Lines of tokens by bytes, whatever is learned."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve_app.resilience.size_regression import (
    FIRST_GUESS,
    LEAST_PER_BYTE,
    MOST_FIXED,
    MOST_PER_BYTE,
    SizeRegression,
)

observations = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(0, 10_000_000), st.integers(1, 10_000_000)), max_size=200
)
quick = settings(max_examples=100, deadline=None)


@quick
@given(observations)
def test_every_line_is_sane(seen: list[tuple[str, int, int]]) -> None:
    regression = SizeRegression()
    for observation in seen:
        regression.learn(*observation)
    for tenant in "abcdef":
        line = regression.line(tenant)
        assert LEAST_PER_BYTE <= line.per_byte <= MOST_PER_BYTE
        assert 0 <= line.fixed <= MOST_FIXED


@quick
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 100_000)), max_size=200))
def test_one_tenant_moves_nobody_else(seen: list[tuple[int, int]]) -> None:
    regression = SizeRegression()
    for size, tokens in seen:
        regression.learn("loud", size, tokens)
    assert regression.line("quiet") == FIRST_GUESS


@quick
@example(0.875, 493, [1, 996, 2183, 2579, 3036])
@given(
    st.floats(0.15, 0.9),
    st.integers(0, 500),
    st.lists(st.integers(1, 20_000), min_size=5, max_size=20, unique=True),
)
def test_a_stable_mix_is_learned(per_byte: float, fixed: int, sizes: list[int]) -> None:
    regression = SizeRegression()
    for size in sizes * (300 // len(sizes)):
        regression.learn("t", size, max(1, round(fixed + per_byte * size)))
    for size in sizes:
        tokens = fixed + per_byte * size
        # Where nearly all prompts are long, they say little of the tokens that a template adds to each.
        assert abs(regression.line("t").tokens(size) - tokens) <= 0.1 * tokens + 0.5 * fixed + 25


def test_tenants_are_forgotten_in_the_order_of_their_last_prompts() -> None:
    regression = SizeRegression(max_tenants=2)
    for tenant in ("a", "b", "a", "c"):
        regression.learn(tenant, 1000, 900)
    assert regression.line("b") == FIRST_GUESS
    assert regression.line("a") != FIRST_GUESS != regression.line("c")
