from __future__ import annotations

import pytest

from serve_app.core.interfaces import RateLimitState
from serve_app.ingress.http.rate_limit_headers import rate_limit_headers


def test_requests_and_tokens_are_told_apart() -> None:
    assert rate_limit_headers(RateLimitState(10, 3, 1000, 0, 2.0, 0.0)) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "0s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.0001, "1ms"), (0.25, "250ms"), (1.0, "1s"), (28.8, "28.8s"), (60.0, "1m0s"), (361.5, "6m1.5s")],
)
def test_times_have_openais_form(seconds: float, text: str) -> None:
    headers = rate_limit_headers(RateLimitState(1, 1, 1, 1, seconds, seconds))
    assert headers["x-ratelimit-reset-requests"] == headers["x-ratelimit-reset-tokens"] == text
