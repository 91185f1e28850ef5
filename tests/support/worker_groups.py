"""How tests share the workers of pytest-xdist: what needs the same Ray or engine stays together, longest first."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    # All that starts Ray or an engine is one group: two of them at once on two cores fail for lack of time. The tests
    # of vLLM come first, while another worker computes what needs neither: they depend on no clock.
    "integration": (
        "contract/test_vllm_continuation.py",
        "contract/test_vllm_engine.py",
        "integration/real",
        # Last, and in this order: each kills replicas of what is served, and the last one serves more than is shipped.
        "integration/real/test_replica_death.py",
        "integration/real/test_failover.py",
        "integration/edge",
        "integration/simulated",
        "integration/haproxy",
        "integration",
    ),
    "gates": ("simulation/test_gates.py",),  # a minute of one core: not at the end, when the other worker has nothing
}
"""Folders and modules of `tests` whose tests run in one worker, in this order; of two that match, the more exact one
counts. Every other module is a group by itself: those fill the other workers.
"""

_GROUP_OF = {part: group for group, parts in GROUPS.items() for part in parts}
_PLACES = {part: place for place, part in enumerate(_GROUP_OF)}


def group_of(test_id: str) -> str:
    """The group of a test, by its id as pytest shows it."""
    part = _part_of(test_id)
    return _module(test_id) if part is None else _GROUP_OF[part]


def place_of(test_id: str) -> int | None:
    """Where the test's folder or module stands in all groups; None for what is a group by itself."""
    part = _part_of(test_id)
    return None if part is None else _PLACES[part]


def _part_of(test_id: str) -> str | None:
    module = _module(test_id)
    return max((part for part in _GROUP_OF if module == part or module.startswith(f"{part}/")), key=len, default=None)


def _module(test_id: str) -> str:
    return test_id.partition("::")[0].removeprefix("tests/")
