"""Presence and frequency penalties over an output whose beginning is part of vLLM's prompt: for its V2 model runner.

That runner keeps all tokens of a request on the device, so counting them takes no state. Loaded by vLLM's core, by
name; see `prior_penalties` for why.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from serve_app.engine.vllm.prior_penalties import Penalties, penalise, penalties_of


class PriorPenaltiesV2(LogitsProcessor):  # type: ignore[misc]  # vLLM is untyped
    """Penalises the rows of continuations that have penalties; other requests cost nothing.

    vLLM refuses custom logits processors together with speculative decoding here, so each request has one row.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._tokens = req_states.all_token_ids
        self._penalties: dict[int, Penalties] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """A request takes the slot `req_idx`, which another may have had before."""
        penalties = penalties_of(sampling_params)
        if penalties is None:
            self._penalties.pop(req_idx, None)
            return False
        self._penalties[req_idx] = penalties
        return True

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """See vLLM's `LogitsProcessor`."""
        if not self._penalties:
            return logits
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            if (penalties := self._penalties.get(slot)) is not None:
                tokens = self._tokens.gpu[slot, : int(ctx.seq_lens_upper_bound_np[row])].long()
                begin = penalties["output_begins"]
                in_prompt = torch.zeros_like(logits[row], dtype=torch.bool).index_fill_(0, tokens[:begin], True)
                output = tokens[begin:]
                counts = torch.zeros_like(logits[row], dtype=torch.float32)
                counts.scatter_add_(0, output, torch.ones_like(output, dtype=torch.float32))
                penalise(logits[row], in_prompt, counts, penalties)
        return logits
