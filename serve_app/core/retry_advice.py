"""How long refused clients are told to stay away. Every bound of that advice is here.

SDKs wait exactly as long as they are told, so the jitter is the server's: without it all would come back at once.
"""

from __future__ import annotations

LEAST_S = 1.0
"""Nobody is asked back earlier; also the advice where nothing is known."""
LONGEST_S = 60.0
"""Longest that SDKs obey: OpenAI's take their own backoff instead of more."""
NO_ENGINE_S = (2.0, 5.0)
"""Between these while no engine can serve: replacing a replica takes seconds, and nothing tells how many."""
_JITTER = 0.2


def bounded_s(seconds: float) -> float:
    """`seconds` within what clients are ever told."""
    return min(max(seconds, LEAST_S), LONGEST_S)


def spread_s(expected_s: float) -> tuple[float, float]:
    """Between which two waits to draw one for a client whose turn is `expected_s` away: ±20 %, within the bounds.

    At the lower bound the whole spread lies above it: those who could come back at once are the ones to keep apart.
    """
    expected_s = bounded_s(expected_s)
    low = max(LEAST_S, expected_s * (1.0 - _JITTER))
    return low, min(LONGEST_S, max(expected_s * (1.0 + _JITTER), low * (1.0 + 2.0 * _JITTER)))
