"""Checks that modules stay small: the median at most 120 lines, none above 500; those above 300 are named.

python -m tools.module_sizes serve_app tools tests
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MEDIAN_LIMIT = 120
LARGE = 300
LIMIT = 500
GENERATED = ("_pb2.py", "_pb2_grpc.py")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lines per module; empty modules do not count."""

    lines: dict[Path, int]

    @property
    def median(self) -> float:
        return statistics.median(self.lines.values()) if self.lines else 0

    def above(self, limit: int) -> list[tuple[Path, int]]:
        """Modules with more than `limit` lines, largest first."""
        found = [(path, lines) for path, lines in self.lines.items() if lines > limit]
        return sorted(found, key=lambda item: -item[1])

    @property
    def acceptable(self) -> bool:
        return self.median <= MEDIAN_LIMIT and not self.above(LIMIT)


def measure(folders: Iterable[Path]) -> Sizes:
    """Count the lines of every Python module in `folders`, generated ones aside."""
    modules = (path for folder in folders for path in folder.rglob("*.py") if not path.name.endswith(GENERATED))
    counted = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    return Sizes({path: lines for path, lines in counted.items() if lines})


def main(arguments: list[str]) -> int:
    sizes = measure(Path(argument) for argument in arguments or ["serve_app"])
    for path, lines in sizes.above(LARGE):
        print(f"{path}: {lines} lines: {'too many, split it' if lines > LIMIT else 'look twice'}")
    print(f"{len(sizes.lines)} modules, median {sizes.median:.0f} lines (at most {MEDIAN_LIMIT})")
    return 0 if sizes.acceptable else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
