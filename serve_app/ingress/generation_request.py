"""The one place that makes a `GenerationRequest` of what a client asked, whatever protocol it came by."""

from __future__ import annotations

from dataclasses import replace

from serve_app.core.errors import InvalidRequest, ModelNotFound
from serve_app.core.request import GenerationRequest, Prompt, Retention, Sampling
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.identity import Identity
from serve_app.ingress.request_context import Urgency
from serve_app.openai_api.parse import ParsedRequest


def generation_request(
    identity: Identity,
    urgency: Urgency,
    request_id: str,
    model: str,
    prompt: Prompt,
    sampling: Sampling,
    retention: Retention | None = None,
) -> GenerationRequest:
    """The request to offer to the router, within what `identity` may.

    Raises `ModelNotFound` for a model that does not exist for `identity`, and `InvalidRequest` for more output tokens
    than it may have.
    """
    if identity.models is not None and model not in identity.models:
        served = ", ".join(sorted(identity.models))
        raise ModelNotFound(f"The model {model[:100]!r} does not exist. Served: {served}.", "model")
    return GenerationRequest(
        request_id=request_id,
        model=model,
        prompt=prompt,
        sampling=_limited(sampling, identity.limits.max_output_tokens),
        tenant=identity.tenant,
        priority=identity.priority(urgency.priority),
        timeout_s=urgency.timeout_s,
        retention=retention,
    )


def generation_requests(
    identity: Identity, urgency: Urgency, request_id: str, parsed: ParsedRequest
) -> list[GenerationRequest]:
    """A request for each prompt of `parsed`. Raises as `generation_request`."""
    several = len(parsed.prompts) > 1
    return [
        generation_request(
            identity, urgency, f"{request_id}-{index}" if several else request_id, parsed.model, prompt, parsed.sampling
        )
        for index, prompt in enumerate(parsed.prompts)
    ]


def check_bounds(parsed: ParsedRequest, config: IngressConfig) -> None:
    """Raise `InvalidRequest` when `parsed` asks for more generations at once than anybody may."""
    if parsed.sampling.n > config.max_n:
        raise InvalidRequest(f"'n' may be at most {config.max_n}.", "n", "invalid_value")
    if len(parsed.prompts) > config.max_prompts:
        message = f"'prompt' may hold at most {config.max_prompts} prompts."
        raise InvalidRequest(message, "prompt", "invalid_value")


def _limited(sampling: Sampling, max_output_tokens: int | None) -> Sampling:
    if max_output_tokens is None:
        return sampling
    if sampling.max_tokens is None:
        return replace(sampling, max_tokens=max_output_tokens)
    if sampling.max_tokens > max_output_tokens:
        message = f"'max_tokens' may be at most {max_output_tokens} for you."
        raise InvalidRequest(message, "max_tokens", "invalid_value")
    return sampling
