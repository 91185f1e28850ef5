"""What continuing an output in vLLM rests on: its own detokenizer, primed, and penalties that equal its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.errors import NotContinuable
from serve_app.engine.vllm.continuation import PRIOR_PENALTIES_KEY
from serve_app.engine.vllm.continuation_text import PRIME_SLICE_TOKENS, ContinuedText
from tests.contract.test_vllm_engine import TINY_MODEL

pytestmark = [pytest.mark.slow, pytest.mark.integration]

TEXT = "naïve café 서울 🙂🚀👩‍👩‍👧 東京 Ελληνικά, ok?\n\n 한국어 🙂"
PENALTIES = {"output_begins": 4, "presence": 0.7, "frequency": -0.3, "repetition": 1.3}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from vllm.tokenizers import get_tokenizer

    return get_tokenizer(str(TINY_MODEL))


def _detokenizer(tokenizer: Any, prompt_ids: list[int], stop: list[str], min_tokens: int = 0) -> Any:
    from vllm import SamplingParams

    from serve_app.engine.vllm.engine import detokenizer

    params = SamplingParams(stop=stop, min_tokens=min_tokens, max_tokens=4096)
    return detokenizer(tokenizer, "id", prompt_ids, params)


def _whole(detokenizer: Any, ids: list[int]) -> tuple[list[str], str | None]:
    """The text deltas of an output that is not interrupted, as vLLM tells them, and the stop string that ended it."""
    texts = []
    for number, token in enumerate(ids, 1):
        stop = detokenizer.update([token], False)
        texts.append(detokenizer.get_next_output_text(stop is not None or number == len(ids), True))
        if stop is not None:
            return texts, stop
    return texts, None


def _outputs(tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of text with characters of several tokens, and of noise with bytes that are no character."""
    yield list(tokenizer.encode(TEXT))
    rng = random.Random(5)
    fragments = [token for token in range(2000) if "\ufffd" in tokenizer.decode([token])]
    special = list(tokenizer.all_special_ids)
    for _ in range(6):
        yield [rng.choice((rng.choice(fragments), rng.choice(special), rng.randrange(40_000))) for _ in range(24)]


@pytest.mark.parametrize("stops", ["none", "never", "across"])
async def test_text_goes_on_from_every_token_as_if_it_had_not_been_cut(tokenizer: Any, stops: str) -> None:
    prompt_ids = list(tokenizer.encode("Ein Tag in 서울 🙂"))[:-1]  # a prompt that ends within a character
    for ids in _outputs(tokenizer):
        stop = []
        if stops != "none":
            plain = "".join(_whole(_detokenizer(tokenizer, prompt_ids, []), ids)[0])
            middle = len(plain) // 2
            stop = [plain[middle : middle + 9] + ("" if stops == "across" else "\x00"), "\x00" * 4]
        texts, ended_by = _whole(_detokenizer(tokenizer, prompt_ids, stop), ids)
        assert (ended_by is not None) == (stops == "across")
        for cut in range(len(texts) + 1):
            continued = ContinuedText(_detokenizer(tokenizer, prompt_ids, stop))
            await continued.prime(tuple(ids[:cut]), "".join(texts[:cut]), False)
            rest = [
                continued.push([token], False, number == len(ids)) for number, token in enumerate(ids[cut:], cut + 1)
            ]
            told = [text for kept, text in rest if kept]
            assert told == texts[cut:]
            assert continued.stop == ended_by


async def test_several_tokens_at_once_are_cut_behind_the_stop_string(tokenizer: Any) -> None:
    ids = list(tokenizer.encode("One two three four five six"))
    continued = ContinuedText(_detokenizer(tokenizer, [5], ["three"]))
    await continued.prime(tuple(ids[:1]), "", False)
    assert continued.push(ids[1:], False, False) == (2, "One two ")
    assert continued.stop == "three"


async def test_long_output_is_primed_in_slices_that_let_others_run(tokenizer: Any) -> None:
    ids = list(tokenizer.encode("A long text. ")) * PRIME_SLICE_TOKENS
    text = "".join(_whole(_detokenizer(tokenizer, [5], []), ids)[0])
    continued = ContinuedText(_detokenizer(tokenizer, [5], []))
    await continued.prime(tuple(ids), text[:-7], False)
    assert continued.rest(finished=False) == text[-7:]


async def test_other_text_than_was_sent_is_not_continued(tokenizer: Any) -> None:
    continued = ContinuedText(_detokenizer(tokenizer, [5], []))
    with pytest.raises(NotContinuable):
        await continued.prime(tuple(tokenizer.encode("Hello")), "Hallo", False)


def _vllm_penalties(prompt: list[int], output: list[int], logits: Any) -> Any:
    """Logits as vLLM itself penalises them in an output that is not interrupted."""
    import torch
    from vllm.v1.sample.ops.penalties import apply_all_penalties

    return apply_all_penalties(
        logits.clone()[None],
        torch.tensor([prompt]),
        torch.tensor([PENALTIES["presence"]]),
        torch.tensor([PENALTIES["frequency"]]),
        torch.tensor([PENALTIES["repetition"]]),
        [output],
    )[0]


def _params(penalties: dict[str, float] | None) -> SimpleNamespace:
    return SimpleNamespace(extra_args=None if penalties is None else {PRIOR_PENALTIES_KEY: penalties})


def test_penalties_of_a_continuation_are_those_of_the_whole_output() -> None:
    import torch

    from serve_app.engine.vllm.prior_penalties import PriorPenalties

    processor = PriorPenalties(None, torch.device("cpu"), False)
    assert processor.new_req_logits_processor(_params(None)) is None
    penalise = processor.new_req_logits_processor(_params(PENALTIES))
    assert penalise is not None
    prompt, prior, new = [1, 2, 3, 3], [3, 5, 5, 7], [5, 9, 9, 11]
    drawn: list[int] = []
    for token in new:
        logits = torch.randn(16)
        expected = _vllm_penalties(prompt, prior + drawn, logits)
        assert torch.equal(penalise(prompt + prior, drawn, logits), expected)
        drawn.append(token)
    del drawn[1:]  # vLLM takes tokens back, and knows others only later
    drawn.append(-1)
    logits = torch.randn(16)
    expected = _vllm_penalties(prompt, prior + new[:1], logits)
    assert torch.equal(penalise(prompt + prior, drawn, logits), expected)


def test_penalties_in_the_v2_model_runner_are_those_of_the_whole_output() -> None:
    import numpy as np
    import torch

    from serve_app.engine.vllm.prior_penalties_v2 import PriorPenaltiesV2

    prompt, prior, drawn = [1, 2, 3, 3], [3, 5, 5, 7], [5, 9]
    tokens = torch.zeros(8, 32, dtype=torch.int32)
    tokens[6, : len(prompt + prior + drawn)] = torch.tensor(prompt + prior + drawn)
    processor = PriorPenaltiesV2(None, SimpleNamespace(all_token_ids=SimpleNamespace(gpu=tokens)))
    assert processor.add_request(6, _params(PENALTIES))
    assert not processor.add_request(2, _params(None))
    ctx = SimpleNamespace(idx_mapping_np=np.array([2, 6]), seq_lens_upper_bound_np=np.array([20, 10]))
    logits = torch.randn(2, 16)
    expected = torch.stack([logits[0], _vllm_penalties(prompt, prior + drawn, logits[1])])
    assert torch.equal(processor.apply(logits.clone(), ctx), expected)
    assert not processor.add_request(6, _params(None)), "the slot's next request"
    assert torch.equal(processor.apply(logits.clone(), ctx), logits)
