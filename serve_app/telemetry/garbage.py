"""Keeps Python's cyclic garbage collector from spending the tokens' CPU."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000
"""Allocations between two looks at the young objects; Python's 700 is reached several times in one engine step."""


def relax_garbage_collection() -> None:
    """Exempt what exists now (code, configuration, libraries) from collection, and collect the rest less often.

    Call it once per process, when it is ready to serve. Streams hold no reference cycles, so almost all memory is
    freed without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)
