"""The hostile client, in a process of its own: `python -m benchmarks.hostile.client '{"port": …}'`.

50 connections on loopback make attempt after attempt for so many seconds and stop. It yields the processors to
everything else, as a client on another machine would. Prints what came of the attempts as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.hostile import grpc_attacks, http_attacks, socket_attacks
from benchmarks.hostile.outcomes import Attack, Outcomes, Target

_CONNECTIONS = (("http", 34), ("socket", 10), ("grpc", 6))
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class HostilePlan:
    """What to attack, and for how long."""

    port: int
    grpc_port: int
    model: str
    seconds: float
    seed: int = 0
    only: str = ""
    """Only attacks whose names contain this."""


def _by_protocol(only: str) -> dict[str, dict[str, Attack]]:
    found = {
        "http": http_attacks.attacks(),
        "socket": socket_attacks.attacks(),
        "grpc": grpc_attacks.attacks(),
    }
    return {
        protocol: {name: attack for name, attack in attacks.items() if only in name}
        for protocol, attacks in found.items()
    }


async def attack(plan: HostilePlan) -> Outcomes:
    """Make attempts for `plan.seconds`, and wait for the last ones."""
    target, outcomes, end = Target(plan.port, plan.grpc_port, plan.model), Outcomes(), time.monotonic() + plan.seconds

    async def one(attacks: Mapping[str, Attack], rng: random.Random) -> None:
        while time.monotonic() < end:
            for name in rng.sample(list(attacks), len(attacks)):
                await outcomes.attempt(name, attacks[name], target)
                await asyncio.sleep(rng.uniform(0, 2 * _PAUSE_S))
                if time.monotonic() >= end:
                    return

    rng = random.Random(plan.seed)
    chosen = _by_protocol(plan.only)
    async with asyncio.TaskGroup() as group:
        for protocol, count in _CONNECTIONS:
            for _ in range(count if chosen[protocol] else 0):
                group.create_task(one(chosen[protocol], random.Random(rng.random())))
    return outcomes


def main() -> None:
    """Run the plan that the first argument has."""
    plan = HostilePlan(**json.loads(sys.argv[1]))
    os.nice(19)
    logging.disable()
    outcomes = asyncio.run(attack(plan))
    json.dump({name: dict(counts) for name, counts in sorted(outcomes.counts.items())}, sys.stdout)


if __name__ == "__main__":
    main()
