"""Translates sampling parameters to vLLM's, and vLLM's refusals to ours."""

from __future__ import annotations

import re
from typing import Any

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Sampling

_FIELDS = frozenset(Sampling.__dataclass_fields__)
_SEED_MIN, _SEED_MAX = -(2**63), 2**63 - 1


def sampling_arguments(sampling: Sampling, max_tokens: int, vocabulary_size: int) -> dict[str, Any]:
    """Keyword arguments of vLLM's `SamplingParams`.

    Raises `InvalidRequest` for what not every version of vLLM refuses, though its core would crash on it.
    """
    if sampling.seed is not None and not _SEED_MIN <= sampling.seed <= _SEED_MAX:
        raise InvalidRequest("seed must be a 64-bit integer.", "seed")
    if any(not 0 <= token < vocabulary_size for token in sampling.stop_token_ids):
        raise InvalidRequest(f"stop_token_ids must be between 0 and {vocabulary_size - 1}.", "stop_token_ids")
    return {
        "max_tokens": max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "n": sampling.n,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "logprobs": sampling.logprobs,
        "ignore_eos": sampling.ignore_eos,
    }


def invalid_request(error: Exception) -> InvalidRequest:
    """What a validation error of vLLM means to the client, with the field at fault where it can be told."""
    message = str(error.args[0]) if error.args else str(error)
    param = getattr(error, "parameter", None)
    if not isinstance(param, str):
        first_word = re.match(r"\w+", message)
        param = first_word.group() if first_word and first_word.group() in _FIELDS else None
        if message.startswith("Token id "):
            param = "prompt"
    return InvalidRequest(message, param)
