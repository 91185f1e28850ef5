"""The places of the waiting queue as OpenAI's `x-ratelimit-*` headers."""

from __future__ import annotations

import math

from serve_app.core.interfaces import RateLimitState

RATE_LIMIT_HEADERS = {
    "x-ratelimit-limit-requests": "Places of the waiting queue.",
    "x-ratelimit-remaining-requests": "Places that are free.",
    "x-ratelimit-reset-requests": "Time until all are free, as `1.5s`.",
    "x-ratelimit-limit-tokens": "Prompt tokens that may wait.",
    "x-ratelimit-remaining-tokens": "Prompt tokens that may still come.",
    "x-ratelimit-reset-tokens": "Time until none waits, as `1.5s`.",
}
"""What each header says."""


def rate_limit_headers(state: RateLimitState) -> dict[str, str]:
    """Limit, what remains of it, and the time until all of it is free, for requests and for prompt tokens.

    Names and the form of times (`250ms`, `1.5s`, `6m0s`) are those of
    https://platform.openai.com/docs/guides/rate-limits.
    """
    return {
        "x-ratelimit-limit-requests": str(state.limit_requests),
        "x-ratelimit-remaining-requests": str(state.remaining_requests),
        "x-ratelimit-reset-requests": _duration(state.reset_requests_s),
        "x-ratelimit-limit-tokens": str(state.limit_tokens),
        "x-ratelimit-remaining-tokens": str(state.remaining_tokens),
        "x-ratelimit-reset-tokens": _duration(state.reset_tokens_s),
    }


def _duration(seconds: float) -> str:
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    rest = f"{milliseconds / 1000:g}s"
    return f"{minutes}m{rest}" if minutes else rest
