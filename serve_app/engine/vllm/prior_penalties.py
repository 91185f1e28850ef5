"""Presence and frequency penalties over an output whose beginning is part of vLLM's prompt: for its V1 model runner.

vLLM counts the tokens that the request itself has drawn. A continuation's earlier ones are at the end of its prompt,
so its penalties are computed here, all of them and in vLLM's order (`vllm.model_executor.layers.utils`), and vLLM's own
are turned off for it. Loaded by vLLM's core, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from serve_app.engine.vllm.continuation import PRIOR_PENALTIES_KEY


class Penalties(TypedDict):
    """What a continuation brings along in `SamplingParams.extra_args`."""

    output_begins: int
    """Tokens at the beginning of vLLM's prompt that are the client's prompt."""
    presence: float
    frequency: float
    repetition: float


def penalties_of(params: Any) -> Penalties | None:
    """The penalties that a request's `SamplingParams` carry, if it is a continuation that has some."""
    found: Penalties | None = (params.extra_args or {}).get(PRIOR_PENALTIES_KEY)
    return found


def penalise(logits: torch.Tensor, in_prompt: torch.Tensor, output_counts: torch.Tensor, penalties: Penalties) -> None:
    """Apply all penalties to one row of logits, in place.

    `logits`, `in_prompt` (bool) and `output_counts` (float32) each have the vocabulary's size.
    """
    in_output = output_counts > 0
    if penalties["repetition"] != 1:
        repetition = penalties["repetition"]
        scale = torch.where(logits > 0, 1.0 / repetition, repetition)
        logits *= torch.where(in_prompt | in_output, scale, 1.0)
    logits -= penalties["frequency"] * output_counts
    logits -= penalties["presence"] * in_output


class OutputPenalties:
    """The penalties of one request, whose counts follow its output."""

    def __init__(self, penalties: Penalties) -> None:
        self._penalties = penalties
        self._in_prompt: torch.Tensor | None = None
        self._counts = torch.empty(0)
        self._prior_counts = torch.empty(0)
        self._counted = 0

    def __call__(self, prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Penalise one row of logits, in place. `output_ids` is what was drawn since the continuation began."""
        if self._in_prompt is None:
            begin = self._penalties["output_begins"]
            self._in_prompt = _counts(prompt_ids[:begin], logits) > 0
            self._prior_counts = _counts(prompt_ids[begin:], logits)
            self._counts = self._prior_counts.clone()
        if len(output_ids) < self._counted:  # vLLM took some back
            self._counts = self._prior_counts.clone()
            self._counted = 0
        new = output_ids[self._counted :]
        if -1 in new:  # not known yet
            new = new[: new.index(-1)]
        if new:
            self._counts += _counts(new, logits)
            self._counted += len(new)
        penalise(logits, self._in_prompt, self._counts, self._penalties)
        return logits


class PriorPenalties(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM is untyped
    """Gives each continuation with penalties its `OutputPenalties`; other requests cost nothing."""

    def is_argmax_invariant(self) -> bool:
        """Penalties change which token is the most likely one."""
        return False

    def new_req_logits_processor(self, params: Any) -> OutputPenalties | None:
        """See vLLM's `AdapterLogitsProcessor`."""
        penalties = penalties_of(params)
        return None if penalties is None else OutputPenalties(penalties)


def _counts(token_ids: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    counts = torch.zeros(logits.shape[-1], dtype=torch.float32, device=logits.device)
    ids = torch.tensor(token_ids, dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
