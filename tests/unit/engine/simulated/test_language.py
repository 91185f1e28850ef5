from __future__ import annotations

import math
from collections import Counter

import pytest

from serve_app.core.request import Sampling
from serve_app.engine.simulated.language import TokenSource, max_rank, read
from serve_app.engine.simulated.vocabulary import DRAWN, END, FORCED, TEXTS, encode

_PROMPT = encode("The sea is great.")


def _source(ids: list[int], seed: int = 0, choice: int = 0, rank: int = 15, mean_tokens: int = 50) -> TokenSource:
    state, _ = read(ids, 16)
    return TokenSource(state, ids[-1], seed, choice, rank, mean_tokens)


def _draw(source: TokenSource, count: int, may_end: bool = False) -> list[int]:
    return [source.draw(may_end) for _ in range(count)]


@pytest.mark.parametrize("rank", [0, 15])
def test_output_replayed_at_any_point_continues_in_the_same_way(rank: int) -> None:
    output = _draw(_source(_PROMPT, seed=3, rank=rank), 200, may_end=True)
    for cut in range(1, 200):
        replayed = _draw(_source(_PROMPT + output[:cut], seed=3, rank=rank), 200 - cut, may_end=True)
        assert replayed == output[cut:]


def test_greedy_output_depends_on_the_prompt_alone() -> None:
    outputs = {tuple(_draw(_source(_PROMPT, seed, choice, 0), 50)) for seed in range(3) for choice in range(3)}
    assert len(outputs) == 1
    assert tuple(_draw(_source([*_PROMPT, 20], 0, 0, 0), 50)) not in outputs


def test_every_seed_and_choice_samples_another_output() -> None:
    outputs = {tuple(_draw(_source(_PROMPT, seed, choice), 50)) for seed in (-1, 0, 1, 2**63) for choice in range(4)}
    assert len(outputs) == 16


def test_ends_on_average_after_the_configured_number_of_tokens() -> None:
    lengths = []
    for number in range(400):
        source = _source([*_PROMPT, 10 + number % 200, number // 200], mean_tokens=40)
        length = 1
        while source.draw(True) != END:
            length += 1
        lengths.append(length)
    assert 32 < sum(lengths) / len(lengths) < 52  # characters of several tokens never end within


def test_does_not_end_when_it_may_not() -> None:
    assert END not in _draw(_source(_PROMPT, mean_tokens=1), 300)


def test_rank_probabilities_are_those_that_logprobs_tell() -> None:
    source = _source(_PROMPT)
    ranks: Counter[float] = Counter()
    for _ in range(20_000):
        source.draw(False)
        ranks[source.logprob(0).logprob] += 1
    total = sum(count for logprob, count in ranks.items() if logprob < 0)
    for rank in range(4):
        assert ranks[-(rank + 1) * math.log(2)] / total == pytest.approx(2.0 ** -(rank + 1), abs=0.02)


def test_all_words_are_drawn_about_equally_often() -> None:
    drawn = Counter(token for token in _draw(_source(_PROMPT, rank=0), 40_000) if token in set(DRAWN))
    expected = sum(drawn.values()) / len(DRAWN)
    assert len(drawn) == len(DRAWN)
    assert max(drawn.values()) < 1.6 * expected


def test_logprobs_of_a_forced_token_are_certain_and_have_their_count() -> None:
    source = _source(_PROMPT, rank=0)
    while source.draw(False) not in FORCED:
        pass
    source.draw(False)
    told = source.logprob(3)
    assert told.logprob == 0
    assert told.top[0] == (told.token, 0.0)
    assert len(told.top) == 3
    assert [value for _, value in told.top] == sorted((value for _, value in told.top), reverse=True)


def test_sampled_token_is_among_the_alternatives_of_its_rank() -> None:
    source = _source(_PROMPT)
    for _ in range(200):
        token = source.draw(False)
        told = source.logprob(16)
        assert (told.token, told.logprob) in told.top
        assert told.token == TEXTS[token] or TEXTS[token] is None


@pytest.mark.parametrize(
    ("sampling", "rank"),
    [
        (Sampling(), 15),
        (Sampling(temperature=0), 0),
        (Sampling(top_k=1), 0),
        (Sampling(top_k=4), 3),
        (Sampling(top_k=100), 15),
        (Sampling(top_p=0.4), 0),
        (Sampling(top_p=0.5), 0),
        (Sampling(top_p=0.75), 1),
        (Sampling(top_p=0.8), 2),
        (Sampling(top_p=0.8, top_k=2), 1),
    ],
)
def test_temperature_top_k_and_top_p_bound_the_rank(sampling: Sampling, rank: int) -> None:
    assert max_rank(sampling) == rank


def test_blocks_identify_their_whole_prefix() -> None:
    _, one = read([1, 2, 3, 4, 5], 2)
    _, other = read([1, 2, 3, 9, 5, 6], 2)
    _, first_differs = read([9, 2, 3, 4], 2)
    assert len(one) == 2
    assert len(other) == 3
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert first_differs[1] != one[1]
