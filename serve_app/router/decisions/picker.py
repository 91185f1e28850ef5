"""Replica choice by the power of two choices on outstanding tokens.

Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001: the less
loaded of two random candidates gives nearly the balance of the least loaded of all, without herding when several
routers decide from the same stale load.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.interfaces import Rng
from serve_app.router.decisions.engine_pool import EngineView


def pick(candidates: Sequence[EngineView], rng: Rng) -> EngineView | None:
    """The replica to use among `candidates`; None when there is none. Ties are broken by what is in flight, then at
    random."""
    if not candidates:
        return None
    if len(candidates) == 1:
        return candidates[0]
    first, second = rng.sample(candidates, 2)
    if (first.outstanding_tokens, first.in_flight) <= (second.outstanding_tokens, second.in_flight):
        return first
    return second
