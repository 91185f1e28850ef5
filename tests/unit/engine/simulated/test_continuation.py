from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.core.errors import NotContinuable
from serve_app.core.events import FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import Continuation, Sampling
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.model import SimulatedModel
from serve_app.engine.simulated.sequence import Job, Sequence
from serve_app.engine.simulated.vocabulary import OPEN_BYTES, encode
from tests.support.generations import known

PROMPT = encode("The sea is great.")
GREEDY = Sampling(temperature=0, max_tokens=60)
CONFIG = SimulatedEngineConfig(mean_output_tokens=1_000_000)


def _begin(
    sampling: Sampling, continuation: Continuation | None = None, config: SimulatedEngineConfig = CONFIG
) -> tuple[SimulatedModel, Job, list[StreamEvent]]:
    events: list[StreamEvent] = []
    model = SimulatedModel(config)
    prompt = PROMPT if continuation is None else list(continuation.prompt_token_ids)
    return model, model.submit(prompt, sampling, sampling.max_tokens or 60, events.append, continuation), events


def _run(
    sampling: Sampling, continuation: Continuation | None = None, config: SimulatedEngineConfig = CONFIG
) -> tuple[list[TokenDelta], Sequence]:
    model, job, events = _begin(sampling, continuation, config)
    while model.begin_step(0.0) is not None:
        model.finish_step(0.0)
    return [event for event in events if isinstance(event, TokenDelta)], job.sequences[0]


def _cut(deltas: list[TokenDelta], tokens: int, prompt: list[int] = PROMPT) -> Continuation:
    begun = deltas[:tokens]
    return Continuation(
        tuple(prompt), tuple(known(delta.token_ids)[0] for delta in begun), "".join(delta.text for delta in begun)
    )


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        replace(GREEDY, temperature=1, seed=7, logprobs=0),
        replace(GREEDY, stop=("never seen", " ")),
        replace(GREEDY, stop=("e",), min_tokens=30),
        replace(GREEDY, stop_token_ids=(300, 400)),
    ],
)
def test_every_cut_goes_on_with_the_same_deltas_and_end(sampling: Sampling) -> None:
    full, sequence = _run(sampling)
    for tokens in range(len(full)):
        rest, continued = _run(sampling, _cut(full, tokens))
        assert rest == full[tokens:]
        assert continued.finished == sequence.finished


def test_natural_end_comes_where_it_would_have_come() -> None:
    config = CONFIG.model_copy(update={"mean_output_tokens": 12})
    full, sequence = _run(GREEDY, config=config)
    assert sequence.finished is not None and sequence.finished.reason is FinishReason.STOP
    rest, continued = _run(GREEDY, _cut(full, len(full) // 2), config)
    assert rest == full[len(full) // 2 :]
    assert continued.finished == sequence.finished


def test_character_that_the_prompt_left_open_is_completed_after_the_cut() -> None:
    token = next(iter(OPEN_BYTES))
    prompt = [*PROMPT, token]
    full, _ = _run(GREEDY, Continuation(tuple(prompt), (), ""))
    assert full[0].text not in ("", "\ufffd")
    assert _run(GREEDY, _cut(full, 5, prompt))[0] == full[5:]


@pytest.mark.parametrize("ends", ["length", "stop", "token", "natural"])
def test_output_that_had_ended_leaves_nothing_to_run(ends: str) -> None:
    config = CONFIG.model_copy(update={"mean_output_tokens": 12 if ends == "natural" else 1_000_000})
    plain, _ = _run(GREEDY, config=config)
    last = plain[-1]
    sampling = {
        "length": GREEDY,
        "stop": replace(GREEDY, stop=("".join(delta.text for delta in plain)[-5:],)),
        "token": replace(GREEDY, stop_token_ids=(known(last.token_ids)[0],)),
        "natural": GREEDY,
    }[ends]
    full, sequence = _run(sampling, config=config)
    model, job, events = _begin(sampling, _cut(full, len(full)), config)
    assert job.unfinished == 0
    assert job.sequences[0].finished == sequence.finished
    assert job.sequences[0].last_words() is None
    assert model.begin_step(0.0) is None
    assert events == []


def test_text_that_was_never_sent_is_among_the_last_words() -> None:
    full, _ = _run(GREEDY)
    begun = _cut(full, len(full))
    _, job, _ = _begin(GREEDY, replace(begun, text_sent=begun.text_sent[:-4]))
    last = job.sequences[0].last_words()
    assert last == TokenDelta(0, len(full), 0, begun.text_sent[-4:], [])


def test_text_that_was_never_sent_comes_with_the_first_token() -> None:
    full, _ = _run(GREEDY)
    begun = _cut(full, 30)
    rest, _ = _run(GREEDY, replace(begun, text_sent=begun.text_sent[:-4]))
    assert rest[0].text == begun.text_sent[-4:] + full[30].text
    assert rest[1:] == full[31:]


def test_other_text_than_was_sent_is_refused_and_nothing_runs() -> None:
    full, _ = _run(GREEDY)
    model = SimulatedModel(CONFIG)
    with pytest.raises(NotContinuable):
        model.submit(PROMPT, GREEDY, 60, lambda event: None, replace(_cut(full, 9), text_sent="Something else"))
    assert model.begin_step(0.0) is None


def test_continuation_is_prefilled_and_its_output_is_no_cached_prompt() -> None:
    full, _ = _run(GREEDY)
    model, job, _ = _begin(GREEDY, _cut(full, 40))
    sequence = job.sequences[0]
    assert (sequence.length, sequence.generated) == (len(PROMPT) + 40, 0)
    model.begin_step(0.0)
    assert model.load().kv_cache_usage == pytest.approx((len(PROMPT) + 40) / CONFIG.kv_capacity_tokens)
    sequence.cached_tokens = len(PROMPT) + 16
    while sequence.finished is None:
        sequence.advance()
    assert sequence.finished.cached_tokens == len(PROMPT)
