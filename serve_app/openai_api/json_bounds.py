"""Counts the values of a JSON document before anything is built from it, and refuses what would take too long.

A parser holds the interpreter from its first byte to its last. Text costs it 2 ms a MiB; values cost 20 to 500 ns each,
and two bytes are enough for one. So the number of values is bounded, and every body up to the limit is parsed in a few
milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.core.errors import PayloadTooLarge

MAX_VALUES = 262_144
"""Most elements of all lists and objects together: a prompt of a quarter of a million token ids, in 5 ms."""
MAX_FIELDS = 65_536
"""Most fields of all objects together, in 15 ms: their names are looked up and kept."""
MAX_CONTAINERS = 16_384
"""Most lists and objects together: 4,000 messages of two parts each. The garbage collector visits each of them."""

SHORT_BYTES = 64 * 1024
"""A document up to this is parsed in a few milliseconds whatever it holds, and is not looked at."""
_SLICE_BYTES = 128 * 1024
"""What is looked at without letting other threads run."""


def check_values(body: bytes) -> None:
    """Raise `PayloadTooLarge` when `body` holds more values than a request can need.

    Looks at bytes only: what is not JSON passes when it has few values, and is the parser's to refuse.
    """
    # Marks inside strings count here as well. This can only find too many, and is all that ordinary bodies cost.
    if len(body) <= SHORT_BYTES or _Count.of(body).within_bounds:
        return
    total = _Count(0, 0, 0)
    for outside in _outside_strings(body):
        total += _Count.of(outside)
        if not total.within_bounds:
            bounds = f"{MAX_VALUES} values, {MAX_FIELDS} fields and {MAX_CONTAINERS} lists and objects"
            raise PayloadTooLarge(f"The body holds too much: at most {bounds}, whatever their size.")


@dataclass(frozen=True, slots=True)
class _Count:
    values: int
    fields: int
    containers: int

    @staticmethod
    def of(json: bytes) -> _Count:
        """A container has at most one value more than commas."""
        containers = json.count(b"[") + json.count(b"{")
        return _Count(json.count(b",") + containers, json.count(b":"), containers)

    def __add__(self, other: _Count) -> _Count:
        return _Count(self.values + other.values, self.fields + other.fields, self.containers + other.containers)

    @property
    def within_bounds(self) -> bool:
        return self.values <= MAX_VALUES and self.fields <= MAX_FIELDS and self.containers <= MAX_CONTAINERS


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """The parts of `body` outside its strings, slice by slice."""
    inside, start = False, 0
    while start < len(body):
        piece = body[start : start + _SLICE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # an escape that the slice would cut
            piece = body[start : start + len(piece) + 1]
        start += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
