from __future__ import annotations

import pickle

import pytest

from serve_app.core.errors import NotContinuable
from serve_app.core.events import Accepted, TokenDelta
from serve_app.core.request import Continuation, GenerationRequest, Prompt, Sampling
from serve_app.router.streams.replay_record import ReplayRecord, why_not_continuable

REQUEST = GenerationRequest("id", "model", Prompt(text="Hello"), Sampling(max_tokens=10, seed=4), timeout_s=60)


def _record(*deltas: tuple[int, list[int], str]) -> ReplayRecord:
    record = ReplayRecord()
    record.accepted(Accepted(3, [7, 8, 9]))
    for index, token_ids, text in deltas:
        record.record(TokenDelta(0, index, len(token_ids), text, token_ids))
    return record


def test_continued_request_is_the_same_but_for_where_it_stands_and_the_time_left() -> None:
    record = _record((0, [1], "a"), (1, [2, 3], ""), (3, [4], "bc"))
    continued = record.continued(REQUEST, timeout_s=12.5)
    assert continued.continuation == Continuation((7, 8, 9), (1, 2, 3, 4), "abc")
    assert continued.timeout_s == 12.5
    assert (continued.request_id, continued.prompt, continued.sampling) == (
        REQUEST.request_id,
        REQUEST.prompt,
        REQUEST.sampling,
    )
    assert pickle.loads(pickle.dumps(continued)) == continued


def test_stream_that_has_no_token_yet_is_continued_from_its_prompt() -> None:
    assert _record().continued(REQUEST, None).continuation == Continuation((7, 8, 9), (), "")


def test_record_goes_on_over_a_second_replica_and_keeps_the_prompt_of_the_first() -> None:
    record = _record((0, [1], "a"))
    record.accepted(Accepted(2, [7, 8]))
    record.record(TokenDelta(0, 1, 1, "b", [2]))
    assert record.continued(REQUEST, None).continuation == Continuation((7, 8, 9), (1, 2), "ab")


def test_replay_costs_prompt_and_output() -> None:
    record = _record((0, [1, 2], "ab"))
    assert (record.output_tokens, record.replay_tokens) == (2, 5)
    assert ReplayRecord().replay_tokens == 0


def test_text_that_is_no_part_of_a_token_is_kept_too() -> None:
    record = _record((0, [1], ""), (1, [], "é🙂"))
    assert record.continued(REQUEST, None).continuation == Continuation((7, 8, 9), (1,), "é🙂")


def test_line_ends_are_kept_as_they_were_sent() -> None:
    continuation = _record((0, [1], "a\r"), (1, [2], "\nb\r\n")).continued(REQUEST, None).continuation
    assert continuation is not None
    assert continuation.text_sent == "a\r\nb\r\n"


@pytest.mark.parametrize("index", [0, 2])
def test_stream_with_missing_or_repeated_tokens_is_not_continued(index: int) -> None:
    record = _record((0, [1], "a"), (index, [2], "b"))
    assert record.why_not(REQUEST) == "tokens are missing"
    with pytest.raises(NotContinuable, match="tokens are missing"):
        record.continued(REQUEST, None)


def test_stream_without_its_prompt_is_not_continued() -> None:
    assert ReplayRecord().why_not(REQUEST) == "its token ids are not known"


def test_stream_of_an_engine_that_tells_text_only_is_not_continued() -> None:
    record = ReplayRecord()
    record.accepted(Accepted(3, [7, 8, 9]))
    record.record(TokenDelta(0, 0, 1, "Hello"))
    with pytest.raises(NotContinuable, match="its token ids are not known"):
        record.continued(REQUEST, None)


def test_several_choices_are_not_continued() -> None:
    several = GenerationRequest("id", "model", Prompt(text="Hello"), Sampling(n=2))
    assert why_not_continuable(several) == _record().why_not(several) == "it has several choices"
    assert why_not_continuable(REQUEST) is None
