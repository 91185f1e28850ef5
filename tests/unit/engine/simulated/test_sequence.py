from __future__ import annotations

from serve_app.core.events import FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import Sampling
from serve_app.engine.simulated.language import TokenSource, max_rank, read
from serve_app.engine.simulated.sequence import Job, Sequence
from serve_app.engine.simulated.vocabulary import END, decode, encode
from tests.support.generations import known

_PROMPT = encode("The sea is great.")


def _ignore(event: StreamEvent) -> None:
    """Nobody listens."""


def _run(
    sampling: Sampling, max_tokens: int = 40, mean_output_tokens: int = 1_000_000
) -> tuple[list[TokenDelta], Sequence]:
    state, blocks = read(_PROMPT, 16)
    source = TokenSource(state, _PROMPT[-1], sampling.seed or 0, 0, max_rank(sampling), mean_output_tokens)
    sequence = Sequence(Job(_ignore), 0, len(_PROMPT), blocks, source, b"", sampling, max_tokens)
    deltas = []
    while sequence.finished is None:
        deltas.append(sequence.advance())
    return deltas, sequence


def _text(deltas: list[TokenDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def _ids(deltas: list[TokenDelta]) -> list[int]:
    return [token for delta in deltas for token in known(delta.token_ids)]


def test_length_is_exact_and_the_text_is_that_of_the_ids() -> None:
    deltas, sequence = _run(Sampling(temperature=0))
    assert len(deltas) == sequence.generated == 40
    assert sequence.length == len(_PROMPT) + 40
    assert sequence.finished is not None
    assert sequence.finished.reason is FinishReason.LENGTH
    assert decode(_ids(deltas)).startswith(_text(deltas))


def test_character_cut_by_the_length_is_not_shown() -> None:
    whole, _ = _run(Sampling(temperature=0), 400)
    cut = next(delta.index + 1 for delta in whole if not delta.text)
    deltas, _ = _run(Sampling(temperature=0), cut)
    assert "\ufffd" in decode(_ids(deltas))
    assert "\ufffd" not in _text(deltas)


def test_natural_end_is_a_token_without_text_and_without_stop_reason() -> None:
    deltas, sequence = _run(Sampling(temperature=0), mean_output_tokens=5)
    assert _ids(deltas).index(END) == len(deltas) - 1
    assert deltas[-1].text == ""
    assert sequence.finished is not None
    assert sequence.finished.reason is FinishReason.STOP
    assert sequence.finished.stop_reason is None


def test_ignore_eos_and_min_tokens_hold_the_natural_end_off() -> None:
    assert len(_run(Sampling(temperature=0, ignore_eos=True), mean_output_tokens=1)[0]) == 40
    assert 12 < len(_run(Sampling(temperature=0, min_tokens=12), mean_output_tokens=1)[0]) < 17


def test_stop_token_counts_but_shows_no_text_and_waits_for_min_tokens() -> None:
    whole, _ = _run(Sampling(temperature=0))
    stop = next(delta for delta in whole[5:] if delta.text)
    stops = (known(stop.token_ids)[0], known(whole[0].token_ids)[0])
    deltas, sequence = _run(Sampling(temperature=0, min_tokens=5, stop_token_ids=stops))
    assert _ids(deltas) == _ids(whole)[: stop.index + 1]
    assert deltas[-1].text == ""
    assert sequence.finished is not None
    assert sequence.finished.stop_reason == known(stop.token_ids)[0]


def test_stop_string_before_min_tokens_is_shown() -> None:
    whole = _text(_run(Sampling(temperature=0))[0])
    stop = whole[1:6]
    deltas, sequence = _run(Sampling(temperature=0, min_tokens=3, stop=(stop,)))
    assert _text(deltas).startswith(whole[:6])
    assert sequence.generated > 3


def test_held_text_comes_with_the_last_delta_whatever_ends_the_output() -> None:
    whole, _ = _run(Sampling(temperature=0), mean_output_tokens=5)
    held = _text(whole)[-3:] + "never"
    deltas, sequence = _run(Sampling(temperature=0, stop=(held,)), mean_output_tokens=5)
    assert _text(deltas) == _text(whole)
    assert sequence.finished is not None
    assert sequence.finished.stop_reason is None


def test_empty_stop_string_stops_nothing() -> None:
    assert len(_run(Sampling(temperature=0, stop=("",)))[0]) == 40


def test_stop_string_at_the_length_limit_counts_as_stop() -> None:
    whole, _ = _run(Sampling(temperature=0), 10)
    last = whole[-1].text
    deltas, sequence = _run(Sampling(temperature=0, min_tokens=9, stop=(last,)), 10)
    assert len(deltas) == 10
    assert sequence.finished is not None
    assert sequence.finished.reason is FinishReason.STOP
    assert sequence.finished.stop_reason == last


def test_tokens_of_logprobs_are_the_text_also_where_characters_go_over_several_tokens() -> None:
    deltas, _ = _run(Sampling(temperature=0, logprobs=3), 400)
    assert any(not delta.text for delta in deltas), "no character went over several tokens"
    for delta in deltas:
        assert [drawn.token for drawn in delta.logprobs or ()] == [delta.text]
        assert all("\ufffd" not in text for drawn in delta.logprobs or () for text, _ in drawn.top)
