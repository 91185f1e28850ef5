"""What each router and engine holds, looked at again and again: memory, open files, sockets, asyncio tasks."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.harness.cpu_accounting import role_of
from tools import procfs

ROUTER, ENGINE = "router", "engine"
_ROLES = {"replica serve_app:Router": ROUTER, "replica serve_app:Engine-simulated": ENGINE}
_TASKS = re.compile(r'^serve_app_event_loop_tasks\{[^}]*replica="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One replica at one moment."""

    at_s: float
    """From the begin of the soak."""
    who: str
    """`router 4711`: role and process id; of tasks, which a router tells itself, its replica's id."""
    values: dict[str, float]
    """By what was measured: `memory_mb`, `files` and `sockets`, or `tasks`."""

    @property
    def role(self) -> str:
        return self.who.split(" ")[0]


@dataclass(frozen=True, slots=True)
class Replica:
    """A process that can be killed."""

    pid: int
    started: int


def replicas(root: int) -> dict[str, list[Replica]]:
    """Routers and engines below the process `root`, the oldest first."""
    found: dict[str, list[Replica]] = {ROUTER: [], ENGINE: []}
    for process in procfs.descendants(root):
        role = _ROLES.get(role_of(process.name, procfs.command_line(process.pid)))
        if role:
            found[role].append(Replica(process.pid, process.started))
    return {role: sorted(each, key=lambda replica: replica.started) for role, each in found.items()}


def look(root: int, at_s: float) -> list[Sample]:
    """All processes now."""
    samples = []
    for role, found in replicas(root).items():
        for replica in found:
            try:
                samples.append(Sample(at_s, f"{role} {replica.pid}", _held(Path(f"/proc/{replica.pid}"))))
            except OSError:  # it ended just now
                continue
    return samples


def _held(process: Path) -> dict[str, float]:
    rollup = (process / "smaps_rollup").read_text()
    kb = next(float(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    kinds = [os.readlink(file).partition(":")[0] for file in (process / "fd").iterdir()]
    return {"memory_mb": kb / 1024, "files": len(kinds), "sockets": kinds.count("socket")}


async def look_at_tasks(http: httpx.AsyncClient, at_s: float) -> list[Sample]:
    """Every router's tasks, as `/metrics` shows them; none while it cannot be had."""
    try:
        text = (await http.get("/metrics", timeout=10.0)).text
    except httpx.HTTPError:
        return []
    return [Sample(at_s, f"{ROUTER} {replica}", {"tasks": float(count)}) for replica, count in _TASKS.findall(text)]
