"""Tells whatever stays open that its replica is about to be stopped, so that it does not hold the stop up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Departure:
    """Whether this replica leaves. Used from one event loop.

    with router.departure.told_to(socket.leave):
        await serve(socket)
    """

    def __init__(self) -> None:
        self._was_listed = False
        self._leaving = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def leaving(self) -> bool:
        """Whether new requests belong on another replica."""
        return self._leaving

    def observe(self, listed: bool) -> None:
        """Whether the replica is listed among those that serve, as it is seen now. A new one is not listed at first."""
        if listed:
            self._was_listed, self._leaving = True, False
        elif self._was_listed and not self._leaving:
            self._leaving = True
            for listener in tuple(self._listeners):
                listener()

    @contextmanager
    def told_to(self, listener: Callable[[], None]) -> Iterator[None]:
        """Within the block, call `listener` when the replica begins to leave; at once when it does already."""
        self._listeners.append(listener)
        try:
            if self._leaving:
                listener()
            yield
        finally:
            self._listeners.remove(listener)
