"""Modules of the package stay small."""

from __future__ import annotations

from pathlib import Path

from tools.module_sizes import LIMIT, measure

ROOT = Path(__file__).parents[2]


def test_modules_are_small() -> None:
    sizes = measure([ROOT / "serve_app", ROOT / "tools"])
    assert sizes.acceptable, (sizes.median, sizes.above(LIMIT))
