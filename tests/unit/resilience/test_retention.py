"""Which ended streams have to go."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.resilience.retention import KeepBounds, RetentionConfig


def kept(**bounds: float) -> KeepBounds:
    return KeepBounds(RetentionConfig.model_validate(bounds))


def test_streams_go_when_their_time_is_over_the_oldest_first():
    ended = kept(keep_s=10)
    ended.add("a", 1, 0.0)
    ended.add("b", 1, 5.0)

    assert ended.expire(9.9) == []
    assert ended.expire(10.0) == ["a"]
    assert ended.expire(20.0) == ["b"]
    assert len(ended) == ended.bytes == 0


def test_beyond_a_number_of_streams_the_oldest_go():
    ended = kept(max_streams=2)
    for key in "abc":
        ended.add(key, 1, 0.0)

    assert ended.expire(0.0) == ["a"]


def test_beyond_a_number_of_bytes_the_oldest_go():
    ended = kept(max_bytes=100)
    for key, size in {"a": 30, "b": 40, "c": 50}.items():
        ended.add(key, size, 0.0)

    assert ended.expire(0.0) == ["a"]
    assert ended.bytes == 90


def test_one_that_is_larger_than_all_is_not_kept():
    ended = kept(max_bytes=100)
    ended.add("a", 101, 0.0)

    assert ended.expire(0.0) == ["a"]


def test_what_is_removed_counts_no_longer():
    ended = kept(max_bytes=100)
    ended.add("a", 6, 0.0)
    ended.add("b", 60, 0.0)
    assert ended.expire(0.0) == [] and ended.bytes == 66

    ended.remove("b")
    ended.remove("unknown")
    assert (len(ended), ended.bytes) == (1, 6)


def test_one_that_ends_again_counts_once_and_is_the_newest():
    ended = kept(max_streams=1)
    ended.add("a", 10, 0.0)
    ended.add("b", 10, 1.0)
    ended.add("a", 20, 2.0)

    assert ended.expire(2.0) == ["b"]
    assert ended.bytes == 20


@pytest.mark.parametrize("wrong", [{"keep_s": -1}, {"max_bytes": -1}, {"claim_timeout_s": 0}, {"unknown": 1}])
def test_bounds_are_checked(wrong):
    with pytest.raises(ValidationError):
        RetentionConfig.model_validate(wrong)
