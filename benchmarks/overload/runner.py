"""Runs workloads under policies with many seeds, on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.overload.measure import Measured
from benchmarks.overload.policies import OURS
from benchmarks.overload.simulation import simulate
from benchmarks.overload.workloads import WORKLOADS, Workload

REFERENCE = "reference"
"""Stands for our policy in the workload's reference scenario."""
_DOZEN = 10
"""Seeds in one piece of work of a quick workload."""


@dataclass(frozen=True)
class Piece:
    """Some seeds of one workload under one policy."""

    workload: str
    policy: str
    seeds: tuple[int, ...]


def pieces(workloads: Sequence[Workload], policies: Sequence[str], seeds: int | None) -> list[Piece]:
    """All there is to do; `seeds` overrides the workloads' own numbers, source document's ten-fold included."""
    todo: list[Piece] = []
    for workload in workloads:
        number = workload.seeds if seeds is None else seeds * workload.seeds // _DOZEN
        size = max(1, workload.seeds // _DOZEN)
        for policy in policies:
            names = [policy, REFERENCE] if policy == OURS and workload.reference is not None else [policy]
            for name in names:
                todo += [
                    Piece(workload.name, name, tuple(range(first, min(first + size, number))))
                    for first in range(0, number, size)
                ]
    return todo


def work(piece: Piece) -> tuple[Piece, Measured]:
    """Do one piece."""
    workload = next(each for each in WORKLOADS if each.name == piece.workload)
    scenario, policy = workload.scenario, piece.policy
    if policy == REFERENCE:
        assert workload.reference is not None
        scenario, policy = workload.reference, OURS
    pooled = Measured()
    for seed in piece.seeds:
        pooled.add(simulate(scenario, policy, seed))
    return piece, pooled


def run(todo: Sequence[Piece], processes: int | None = None) -> Iterator[tuple[Piece, Measured]]:
    """Do all pieces; each comes as it is done."""
    processes = processes or os.cpu_count() or 1
    if processes == 1:
        yield from map(work, todo)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(work, todo)
