"""Processes and their CPU counters, read from Linux's /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it is now; CPU seconds are user plus system time."""

    pid: int
    parent: int
    started: int
    """Clock tick of its start: with the id, it names a process for good."""
    name: str
    own_s: float
    ended_children_s: float
    """Of children that ended and were waited for, with theirs."""


def parse_stat(line: str) -> Process:
    """A line of /proc/PID/stat; the name may hold blanks and parentheses."""
    pid, _, rest = line.partition(" (")
    name, _, tail = rest.rpartition(") ")
    fields = tail.split()
    user, system, children_user, children_system = (int(ticks) * _TICK_S for ticks in fields[11:15])
    return Process(
        pid=int(pid),
        parent=int(fields[1]),
        started=int(fields[19]),
        name=name,
        own_s=user + system,
        ended_children_s=children_user + children_system,
    )


def read(pid: int) -> Process | None:
    """The process, or None when it is gone."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def command_line(pid: int) -> str:
    """Arguments of the process, or the title that it gave itself; empty when it is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(root: int) -> list[Process]:
    """All living descendants of process `root`, itself left out."""
    children: dict[int, list[Process]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (process := read(int(entry.name))):
            children[process.parent].append(process)
    found: list[Process] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += [process.pid for process in below]
    return found


def machine_busy_s() -> float:
    """CPU seconds that all processors spent on anything since boot."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(ticks) * _TICK_S for ticks in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return user + nice + system + irq + softirq + steal
