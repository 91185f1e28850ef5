"""Finds what only the garbage collector would free."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left_in_cycles() -> Iterator[Counter[str]]:
    """The project's objects, by type, that the block left in reference cycles; filled in when it has ended."""
    left: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield left
        gc.collect()
        left.update(type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("serve_app"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
