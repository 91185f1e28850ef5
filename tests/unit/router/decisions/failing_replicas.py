"""Two replicas that fail streams, and retries that do not wait."""

from __future__ import annotations

NO_DELAY = {"base_delay_s": 0.0}


def other(engine: str) -> str:
    return {"a": "b", "b": "a"}[engine]
