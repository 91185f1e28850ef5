"""CPU time that a tree of processes spends between two moments, by role.

Linux counts a process's own time and that of its children that ended and were waited for. A process that ends between
two snapshots moves its whole time to its parent's child counter; `consumed` takes back what it had before the first.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tools import procfs

Role = str
Snapshot = Mapping[tuple[int, int], "ProcessTimes"]
"""Keyed by process id and start time, so that a reused id is another process."""

ENGINE_CORE: Role = "engine core (not counted)"
RAY_DAEMONS: Role = "ray daemons"
_RAY_DAEMON_NAMES = ("raylet", "gcs_server")
_RAY_DAEMON_SCRIPT = re.compile(r"[ /']ray[/.](dashboard|autoscaler|_private|util[/.]client|scripts)\b")


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """Counters of one process; CPU seconds are user plus system time."""

    parent: int
    role: Role
    own_s: float
    ended_children_s: float


@dataclass(frozen=True, slots=True)
class Consumption:
    """CPU seconds by role between two snapshots; the engine core stands apart."""

    by_role: dict[Role, float]

    @property
    def serving_s(self) -> float:
        """CPU seconds of all processes of the stack but the engine core."""
        return sum(seconds for role, seconds in self.by_role.items() if role != ENGINE_CORE)

    def __add__(self, other: Consumption) -> Consumption:
        total = Counter(self.by_role)
        total.update(other.by_role)
        return Consumption(dict(total))


def role_of(name: str, command: str) -> Role:
    """What a process does in its stack, from its executable's name and its command line (or the title it set)."""
    if command.startswith(("VLLM::EngineCore", "VLLM::Worker")):
        return ENGINE_CORE
    if command.startswith("ray::"):
        return _ray_worker_role(command.removeprefix("ray::").split(".")[0])
    if name == "haproxy":
        return "haproxy"
    if "vllm.entrypoints" in command:
        return "vllm api server"
    if "ray.serve.scripts" in command:
        return "serve run"
    if name in _RAY_DAEMON_NAMES or command.startswith("ray-dashboard") or _RAY_DAEMON_SCRIPT.search(command):
        return RAY_DAEMONS
    return "other"


def _ray_worker_role(title: str) -> Role:
    if title.startswith("ServeReplica:"):
        return "replica " + title.split(":", 1)[1].split("(")[0]
    if title.startswith("ServeController"):
        return "serve controller"
    if title.startswith(("ProxyActor", "HAProxyManager")):
        return "serve proxy"
    if title.startswith("IDLE") or title.endswith("Agent"):
        return RAY_DAEMONS
    return f"ray {title.split('(')[0]}"


def snapshot(root_pid: int) -> Snapshot:
    """Counters of all living descendants of `root_pid`, itself left out."""
    return {
        (process.pid, process.started): ProcessTimes(
            parent=process.parent,
            role=role_of(process.name, procfs.command_line(process.pid)),
            own_s=process.own_s,
            ended_children_s=process.ended_children_s,
        )
        for process in procfs.descendants(root_pid)
    }


def consumed(before: Snapshot, after: Snapshot) -> Consumption:
    """CPU seconds by role between two snapshots of the same tree, children that came and went included."""
    by_role: dict[Role, float] = defaultdict(float)
    children_s: dict[int, float] = {}
    roles: dict[int, Role] = {}
    for key, now in after.items():
        then = before.get(key)
        by_role[now.role] += now.own_s - (then.own_s if then else 0.0)
        children_s[key[0]] = now.ended_children_s - (then.ended_children_s if then else 0.0)
        roles[key[0]] = now.role
    for key, gone in before.items():
        if key not in after and gone.parent in children_s:
            children_s[gone.parent] -= gone.own_s + gone.ended_children_s
    for pid, seconds in children_s.items():
        by_role[roles[pid]] += max(0.0, seconds)
    return Consumption({role: seconds for role, seconds in by_role.items() if seconds > 0.0})
