"""Groups of tests name what exists, and leave out nothing that shares a Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worker_groups import GROUPS, group_of, place_of

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize("part", [part for parts in GROUPS.values() for part in parts])
def test_every_folder_and_module_of_a_group_exists(part: str) -> None:
    assert (TESTS / part).exists()


def test_every_folder_that_shares_a_ray_is_in_a_group() -> None:
    folders = {path.parent.relative_to(TESTS).as_posix() for path in (TESTS / "integration").rglob("*/conftest.py")}
    assert folders - {part for parts in GROUPS.values() for part in parts} == set()


def test_the_exact_module_counts_before_its_folder() -> None:
    ids = [f"tests/integration/real/test_{name}.py::test_x" for name in ("grpc", "replica_death", "failover")]
    assert {group_of(each) for each in ids} == {"integration"}
    places = [place_of(each) for each in ids]
    assert places == sorted(places, key=lambda place: place or 0) and len(set(places)) == 3


def test_any_other_module_is_a_group_by_itself() -> None:
    assert group_of("tests/unit/core/test_errors.py::test_x[a::b]") == "unit/core/test_errors.py"
    assert place_of("tests/unit/core/test_errors.py::test_x") is None
    assert group_of("tests/contract/test_simulated_engine.py::test_x") == "contract/test_simulated_engine.py"
