"""Request parameters that exist elsewhere: which of them are ignored without harm, and which are refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from serve_app.core.cut_text import cut
from serve_app.core.errors import InvalidRequest

HINTS = frozenset(
    {
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "user",
        "verbosity",
    }
)
"""Bookkeeping and hints: the answer is a right answer whether or not they are obeyed."""

NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_salt": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": ({},),
    "suffix": ("",),
    "thinking_token_budget": (-1,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Parameters that change the answer and that we cannot obey, with the values (besides null) that ask for nothing."""


def without_foreign_parameters(
    body: dict[str, Any],
    own: Collection[str],
    not_supported: Mapping[str, tuple[Any, ...]] = NOT_SUPPORTED,
    hints: Collection[str] = HINTS,
) -> dict[str, Any]:
    """Return `body` reduced to the parameters in `own`.

    Raises `InvalidRequest` naming the parameter when one is unknown, or known but not supported with the value given.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name in own:
            kept[name] = value
        elif name in not_supported:
            if value is not None and value not in not_supported[name]:
                raise InvalidRequest(f"The parameter '{name}' is not supported.", name, "unsupported_parameter")
        elif name not in hints:
            raise InvalidRequest(f"Unknown parameter: '{cut(name)}'.", name, "unknown_parameter")
    return kept
