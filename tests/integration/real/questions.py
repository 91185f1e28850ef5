"""What the tests ask the real model."""

from __future__ import annotations

from typing import Any

MODEL = "smollm2-135m-instruct"

CAPITAL: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 24,
}
"""Its answer at temperature 0 is "The capital of France is Paris."."""

ESSAY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write a long essay about the sea."}],
    "max_tokens": 1500,
    "extra_body": {"ignore_eos": True},
}
"""Takes minutes: for what is to be stopped in the middle."""
