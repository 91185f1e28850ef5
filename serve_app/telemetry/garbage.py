"""Keeps Python's cyclic garbage collector from spending the tokens' CPU."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 20_000
"""Allocations between two looks at the young objects; Python's 700 is reached several times in one engine step."""
_LOOKS = 5
"""Looks at the young objects before the older ones, and at these before all: cycles of objects that lived as long as a
stream, as HTTP servers and Ray leave some for each request, are found after some thousand streams."""


def relax_garbage_collection() -> None:
    """Exempt what exists now (code, configuration, libraries) from collection, and collect the rest less often.

    Call it once per process, when it is ready to serve. Our streams leave no reference cycles, so almost all memory is
    freed without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, _LOOKS, _LOOKS)
