from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.errors import EngineFailed
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta, TokenLogprob
from serve_app.engine.vllm.stream import OutputStream, token_logprobs


def _completion(token_ids: Any, text: str = "", index: int = 0, **fields: Any) -> SimpleNamespace:
    defaults = {"logprobs": None, "finish_reason": None, "stop_reason": None}
    return SimpleNamespace(index=index, token_ids=token_ids, text=text, **(defaults | fields))


def _output(*completions: SimpleNamespace, finished: bool = False, cached: int | None = 0) -> SimpleNamespace:
    return SimpleNamespace(outputs=list(completions), finished=finished, num_cached_tokens=cached)


def _logprob(token: str | None, logprob: float) -> SimpleNamespace:
    return SimpleNamespace(decoded_token=token, logprob=logprob)


async def test_outputs_become_contiguous_deltas_then_finished() -> None:
    events: list[StreamEvent] = []
    stream = OutputStream(events.append, 1, None)
    stream.accept([7])
    stream.put(_output(_completion([1], "a")))
    stream.put(_output(_completion([2, 3], "b")))
    stream.put(_output(_completion([4], "c", finish_reason="length"), finished=True, cached=5))
    await stream.done
    assert events == [
        Accepted(1, [7]),
        TokenDelta(0, 0, 1, "a", [1]),
        TokenDelta(0, 1, 2, "b", [2, 3]),
        TokenDelta(0, 3, 1, "c", [4]),
        Finished(0, FinishReason.LENGTH, None, 5),
    ]


async def test_choices_are_counted_apart_and_the_last_one_ends_the_stream() -> None:
    events: list[StreamEvent] = []
    stream = OutputStream(events.append, 2, None)
    stream.put(_output(_completion([1], "a", 0)))
    stream.put(_output(_completion([2], "b", 1)))
    stream.put(_output(_completion([3], "", 0, finish_reason="stop", stop_reason=3)))
    assert not stream.done.done()
    stream.put(_output(_completion([4], "c", 1, finish_reason="stop", stop_reason="d"), finished=True, cached=None))
    await stream.done
    assert [event for event in events if isinstance(event, Finished)] == [
        Finished(0, FinishReason.STOP, 3),
        Finished(1, FinishReason.STOP, "d"),
    ]
    assert [event.index for event in events if isinstance(event, TokenDelta)] == [0, 0, 1, 1]


async def test_end_without_a_token_gives_no_empty_delta_but_keeps_its_text() -> None:
    events: list[StreamEvent] = []
    stream = OutputStream(events.append, 1, None)
    stream.put(_output(_completion([1], "a")))
    stream.put(_output(_completion([], "", finish_reason="stop"), finished=True))
    assert [type(event) for event in events] == [TokenDelta, Finished]
    held_back = OutputStream(events.append, 1, None)
    held_back.put(_output(_completion([], "held back", finish_reason="stop"), finished=True))
    assert TokenDelta(0, 0, 0, "held back", []) in events


async def test_other_sequences_of_token_ids_become_lists() -> None:
    events: list[StreamEvent] = []
    OutputStream(events.append, 1, None).put(_output(_completion((1, 2), "a")))
    assert events == [TokenDelta(0, 0, 2, "a", [1, 2])]


async def test_closed_stream_emits_nothing_more() -> None:
    events: list[StreamEvent] = []
    stream = OutputStream(events.append, 1, None)
    stream.close()
    stream.accept([1])
    stream.put(_output(_completion([1], "a")))
    stream.put(ValueError("late"))
    assert events == []
    assert not stream.done.done()


async def test_exception_of_the_engine_ends_the_stream() -> None:
    stream = OutputStream(lambda event: None, 1, None)
    stream.put(RuntimeError("core died"))
    with pytest.raises(RuntimeError, match="core died"):
        await stream.done


async def test_generation_that_the_engine_aborts_has_failed() -> None:
    stream = OutputStream(lambda event: None, 1, None)
    stream.put(_output(_completion([], finish_reason="abort"), finished=True))
    with pytest.raises(EngineFailed):
        await stream.done


async def test_error_in_the_receiver_ends_its_stream_and_spares_the_caller() -> None:
    def broken(event: StreamEvent) -> None:
        raise RuntimeError("receiver broke")

    stream = OutputStream(broken, 1, None)
    stream.put(_output(_completion([1], "a")))
    with pytest.raises(RuntimeError, match="receiver broke"):
        await stream.done


def test_logprobs_are_the_drawn_token_and_the_most_likely_ones_in_order() -> None:
    position = {5: _logprob("rare", -4.0), 1: _logprob("b", -1.0), 2: _logprob("a", -0.5)}
    assert token_logprobs([5], [position], 2) == [TokenLogprob("rare", -4.0, (("a", -0.5), ("b", -1.0)))]


def test_without_alternatives_only_the_drawn_token_is_told() -> None:
    assert token_logprobs([5], [{5: _logprob("x", -1.0)}], 0) == [TokenLogprob("x", -1.0)]


def test_minus_infinity_becomes_a_number_that_json_can_hold() -> None:
    (drawn,) = token_logprobs([5], [{5: _logprob(None, float("-inf"))}], 1)
    assert drawn == TokenLogprob("", -9999.0, (("", -9999.0),))


async def test_deltas_carry_logprobs_when_asked() -> None:
    events: list[StreamEvent] = []
    stream = OutputStream(events.append, 1, 1)
    stream.put(_output(_completion([5], "x", logprobs=[{5: _logprob("x", -1.0)}])))
    assert events == [TokenDelta(0, 0, 1, "x", [5], [TokenLogprob("x", -1.0, (("x", -1.0),))])]
