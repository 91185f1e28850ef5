"""What the simulated engine answers when nothing goes wrong, computed here, and how a received answer differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from serve_app.core.request import Prompt, Sampling
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.model import SimulatedModel
from serve_app.engine.simulated.prompt import render
from tests.support.generations import Recording


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole output."""

    text: str
    tokens: tuple[str, ...]
    """Text of each token, as log-probabilities show it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Tokens of an answer that are not as they should be."""

    lost: int
    repeated: int
    """Also those that should not be there at all."""


def whole_answer(engine: SimulatedEngineConfig, body: dict[str, Any]) -> Answer:
    """The uninterrupted answer to a chat request that gives `max_tokens`, `temperature` and `seed`."""
    model = SimulatedModel(engine)
    model.start(0.0)
    sampling = Sampling(
        max_tokens=body["max_tokens"], temperature=body["temperature"], seed=body["seed"], ignore_eos=True, logprobs=0
    )
    recording = Recording()
    model.submit(render(Prompt(messages=tuple(body["messages"]))), sampling, body["max_tokens"], recording)
    now = 0.0
    while (duration_s := model.begin_step(now)) is not None:
        now += duration_s
        model.finish_step(now)
    tokens = tuple(item.token for delta in recording.deltas() for item in delta.logprobs or ())
    return Answer(recording.text(), tokens)


def difference(expected: Sequence[str], received: Sequence[str]) -> Difference:
    """What `received` lacks of `expected`, and what it has beyond it."""
    lost = repeated = 0
    for kind, begin, end, first, last in SequenceMatcher(None, expected, received, autojunk=False).get_opcodes():
        if kind != "equal":
            lost += end - begin
            repeated += last - first
    return Difference(lost, repeated)
