"""How many tokens a request may still generate beside its prompt."""

from __future__ import annotations

from serve_app.core.errors import ContextLengthExceeded, InvalidRequest
from serve_app.core.request import GenerationRequest


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
        raise ContextLengthExceeded(
            f"{limit} However, your {part} resulted in {prompt_tokens} tokens. Please reduce the length of the {part}.",
            part,
        )
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
