"""How many tokens a request may still generate beside its prompt."""

from __future__ import annotations

from serve_app.core.errors import ContextLengthExceeded, InvalidRequest, prompt_too_long
from serve_app.core.prompt_size import least_tokens
from serve_app.core.request import GenerationRequest, Prompt


def check_length(prompt: Prompt, max_token_bytes: int, max_model_len: int) -> None:
    """Raise `ContextLengthExceeded` when `prompt` cannot fit `max_model_len` tokens, before it is rendered."""
    tokens = least_tokens(prompt, max_token_bytes)
    if tokens >= max_model_len:
        raise prompt_too_long(max_model_len, f"at least {tokens}", "prompt" if prompt.messages is None else "messages")


def output_limit(request: GenerationRequest, prompt_tokens: int, max_model_len: int) -> int:
    """Output tokens per choice that `request` may have beside its `prompt_tokens`.

    Raises `ContextLengthExceeded`, in OpenAI's words, when prompt and requested output do not fit `max_model_len`,
    and `InvalidRequest` when less than one token is requested.
    """
    part = "prompt" if request.prompt.messages is None else "messages"
    limit = f"This model's maximum context length is {max_model_len} tokens."
    room = max_model_len - prompt_tokens
    wanted = request.sampling.max_tokens
    if room < 1:
        raise prompt_too_long(max_model_len, str(prompt_tokens), part)
    if wanted is None:
        return room
    if wanted < 1:
        raise InvalidRequest("max_tokens must be at least 1.", "max_tokens")
    if wanted > room:
        raise ContextLengthExceeded(
            f"{limit} However, you requested {prompt_tokens + wanted} tokens ({prompt_tokens} in the {part}, {wanted} "
            f"in the completion). Please reduce the length of the {part} or completion.",
            part,
        )
    return wanted
