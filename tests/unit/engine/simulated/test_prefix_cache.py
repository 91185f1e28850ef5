from __future__ import annotations

from serve_app.engine.simulated.prefix_cache import PrefixCache


def test_unknown_prompt_has_no_hit() -> None:
    assert PrefixCache(64, 4).hit([1, 2], 10) == 0


def test_hit_ends_at_the_first_block_that_is_not_held() -> None:
    cache = PrefixCache(64, 4)
    cache.remember([1, 2, 3])
    assert cache.hit([1, 2, 9, 3], 20) == 8


def test_one_token_is_always_left_to_compute() -> None:
    cache = PrefixCache(64, 4)
    cache.remember([1, 2])
    assert cache.hit([1, 2], 8) == 4
    assert cache.hit([1, 2], 9) == 8


def test_blocks_used_least_recently_are_dropped_first() -> None:
    cache = PrefixCache(8, 4)
    cache.remember([1])
    cache.remember([2])
    assert cache.hit([1], 8) == 4
    cache.remember([3])
    assert cache.hit([2], 8) == 0
    assert cache.hit([1], 8) == 4


def test_cache_of_no_tokens_holds_nothing() -> None:
    cache = PrefixCache(0, 4)
    cache.remember([1])
    assert cache.hit([1], 8) == 0
