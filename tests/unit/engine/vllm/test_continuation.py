from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import Continuation, Sampling
from serve_app.engine.vllm.continuation import (
    PRIOR_PENALTIES_KEY,
    ContinuedStream,
    continued_arguments,
    continued_seed,
    ended_already,
    ended_by_token,
)
from serve_app.engine.vllm.continuation_text import ContinuedText
from serve_app.engine.vllm.sampling import sampling_arguments
from tests.unit.engine.vllm.byte_detokenizer import ByteDetokenizer

BEGUN = Continuation((1, 2, 3), tuple(b"abcd"), "abcd")
EOS, STOP = 4, 5


def _arguments(sampling: Sampling, continuation: Continuation = BEGUN) -> dict[str, Any]:
    return continued_arguments(sampling_arguments(sampling, 10, 100), sampling, continuation)


def _params(eos: int | None = EOS, stop_token_ids: list[int] | None = None) -> SimpleNamespace:
    return SimpleNamespace(eos_token_id=eos, stop_token_ids=stop_token_ids)


async def _text(continuation: Continuation, *stops: str, params: SimpleNamespace | None = None) -> ContinuedText:
    text = ContinuedText(ByteDetokenizer(*stops))
    ended = ended_by_token(continuation, params or _params())
    await text.prime(continuation.output_token_ids, continuation.text_sent, ended)
    return text


def _output(*token_ids: int, end: str | None = None, cached: int = 0) -> SimpleNamespace:
    completion = SimpleNamespace(
        index=0, token_ids=list(token_ids), text="", logprobs=None, finish_reason=end, stop_reason=None
    )
    return SimpleNamespace(outputs=[completion], finished=end is not None, num_cached_tokens=cached)


async def _stream(events: list[StreamEvent], *stops: str, continuation: Continuation = BEGUN) -> ContinuedStream:
    return ContinuedStream(events.append, continuation, await _text(continuation, *stops), None)


def test_limits_count_the_whole_output() -> None:
    arguments = _arguments(Sampling(max_tokens=10, min_tokens=6))
    assert (arguments["max_tokens"], arguments["min_tokens"]) == (6, 2)
    assert _arguments(Sampling(min_tokens=3))["min_tokens"] == 0


def test_stop_strings_are_left_to_us_and_stop_tokens_to_vllm() -> None:
    arguments = _arguments(Sampling(stop=("x",), stop_token_ids=(7,)))
    assert (arguments["stop"], arguments["stop_token_ids"]) == ([], [7])


def test_vllm_turns_tokens_into_text_only_for_log_probabilities() -> None:
    assert _arguments(Sampling())["detokenize"] is False
    assert _arguments(Sampling(logprobs=0))["detokenize"] is True


def test_penalties_on_the_output_bring_along_where_it_begins() -> None:
    arguments = _arguments(Sampling(presence_penalty=0.5, frequency_penalty=-1, repetition_penalty=1.2))
    assert (arguments["presence_penalty"], arguments["frequency_penalty"], arguments["repetition_penalty"]) == (0, 0, 1)
    assert arguments["extra_args"] == {
        PRIOR_PENALTIES_KEY: {"output_begins": 3, "presence": 0.5, "frequency": -1, "repetition": 1.2}
    }


def test_repetition_penalty_alone_is_vllms_since_it_counts_the_prompt_too() -> None:
    arguments = _arguments(Sampling(repetition_penalty=1.2))
    assert arguments["repetition_penalty"] == 1.2
    assert "extra_args" not in arguments


def test_rest_is_drawn_with_another_seed_that_depends_on_where_it_begins() -> None:
    assert _arguments(Sampling())["seed"] is None
    seeds = {continued_seed(seed, tokens) for seed in (-(2**63), -1, 0, 1, 2**63 - 1) for tokens in range(50)}
    assert len(seeds) == 250
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert _arguments(Sampling(seed=5))["seed"] == continued_seed(5, 4)


@pytest.mark.parametrize(
    ("last", "limit", "stops", "end"),
    [
        (ord("d"), 10, (), None),
        (ord("d"), 4, (), Finished(0, FinishReason.LENGTH)),
        (EOS, 10, (), Finished(0, FinishReason.STOP)),
        (EOS, 4, (), Finished(0, FinishReason.STOP)),
        (STOP, 4, (), Finished(0, FinishReason.STOP, STOP)),
        (ord("d"), 4, ("cd",), Finished(0, FinishReason.STOP, "cd")),
        (EOS, 10, ("bc",), Finished(0, FinishReason.STOP, "bc")),
    ],
)
async def test_output_that_had_ended_is_told_how(
    last: int, limit: int, stops: tuple[str, ...], end: Finished | None
) -> None:
    begun = replace(BEGUN, output_token_ids=(*b"abc", last), text_sent="a")
    params = _params(stop_token_ids=[STOP])
    text = await _text(begun, *stops, params=params)
    assert ended_already(begun, text, limit, params) == end


async def test_end_token_that_is_to_be_ignored_is_no_end() -> None:
    begun = replace(BEGUN, output_token_ids=(*b"abc", EOS), text_sent="a")
    assert not ended_by_token(begun, _params(eos=None))
    assert not ended_by_token(replace(BEGUN, output_token_ids=()), _params())


async def test_positions_and_text_go_on_and_the_prompt_is_the_clients() -> None:
    events: list[StreamEvent] = []
    stream = await _stream(events, "zz", continuation=replace(BEGUN, text_sent="abc"))
    stream.accept([1, 2, 3, *b"abcd"])
    stream.put(_output(*b"e"))
    stream.put(_output(*b"fg", end="length", cached=6))
    await stream.done
    assert events == [
        Accepted(3, [1, 2, 3]),
        TokenDelta(0, 4, len([*b"e"]), "d", [*b"e"]),
        TokenDelta(0, 5, len([*b"fg"]), "efg", [*b"fg"]),
        Finished(0, FinishReason.LENGTH, None, 3),
    ]
    assert not stream.cut


async def test_stop_string_ends_the_stream_before_vllm_does() -> None:
    events: list[StreamEvent] = []
    stream = await _stream(events, "dex", continuation=replace(BEGUN, text_sent="ab"))
    stream.put(_output(*b"exyz"))
    await stream.done
    assert events == [TokenDelta(0, 4, len([*b"ex"]), "c", [*b"ex"]), Finished(0, FinishReason.STOP, "dex")]
    assert stream.cut


async def test_stop_string_in_the_last_outputs_is_the_reason_and_leaves_nothing_to_abort() -> None:
    events: list[StreamEvent] = []
    stream = await _stream(events, "de")
    stream.put(_output(*b"e", end="length"))
    await stream.done
    assert events[-1] == Finished(0, FinishReason.STOP, "de")
    assert not stream.cut


async def test_token_that_ends_the_output_is_told_without_text() -> None:
    events: list[StreamEvent] = []
    stream = await _stream(events)
    stream.put(_output(*b"e", EOS, end="stop"))
    assert events == [TokenDelta(0, 4, len([*b"e", EOS]), "e", [*b"e", EOS]), Finished(0, FinishReason.STOP)]


async def test_log_probabilities_behind_a_stop_string_are_dropped() -> None:
    events: list[StreamEvent] = []
    stream = ContinuedStream(events.append, BEGUN, await _text(BEGUN, "ef"), 0)
    output = _output(*b"efg")
    output.outputs[0].logprobs = [{token: SimpleNamespace(decoded_token="x", logprob=-1.0)} for token in b"efg"]
    stream.put(output)
    assert isinstance(events[0], TokenDelta)
    assert len(events[0].logprobs or ()) == events[0].count == 2


async def test_stream_with_nothing_left_to_compute_ends_at_once() -> None:
    events: list[StreamEvent] = []
    stream = await _stream(events)
    stream.finish(Finished(0, FinishReason.LENGTH))
    await stream.done
    assert events == [Accepted(3, [1, 2, 3]), Finished(0, FinishReason.LENGTH)]


async def test_text_that_was_still_held_back_comes_out_at_the_end() -> None:
    events: list[StreamEvent] = []
    stream = await _stream(events, "dex", continuation=replace(BEGUN, text_sent="ab"))
    stream.finish(Finished(0, FinishReason.LENGTH))
    assert events[1] == TokenDelta(0, 4, 0, "cd", [])


async def test_error_of_the_engine_ends_the_stream_and_a_closed_one_tells_nothing() -> None:
    stream = await _stream([])
    stream.put(RuntimeError("core died"))
    with pytest.raises(RuntimeError, match="core died"):
        await stream.done
    events: list[StreamEvent] = []
    closed = await _stream(events)
    closed.close()
    closed.put(_output(*b"e"))
    closed.finish(Finished(0, FinishReason.LENGTH))
    assert events == []


async def test_detokenizer_that_fails_ends_its_stream_and_spares_the_caller() -> None:
    stream = await _stream([])
    stream.put(_output(999))
    with pytest.raises(ValueError, match="range"):
        await stream.done
