"""What becomes of hostile requests, counted."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

TRY_S = 10.0
"""No attempt takes longer: it then hangs up, as a bored attacker does."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the application listens, on loopback, and the model that it serves."""

    port: int
    grpc_port: int
    model: str


Attack = Callable[[Target], Awaitable[str]]
"""One attempt. Returns an HTTP status as text, or a word for what else came of it."""


class Outcomes:
    """Counts by attack and outcome."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    async def attempt(self, name: str, attack: Attack, target: Target) -> None:
        """Run one attempt to its end, whatever that is."""
        try:
            async with asyncio.timeout(TRY_S):
                outcome = await attack(target)
        except TimeoutError:
            outcome = "no answer"
        except ConnectionRefusedError:
            outcome = "refused"
        except (OSError, EOFError):
            outcome = "cut"
        except Exception as error:  # what a client library makes of an odd answer must not end the attack
            outcome = f"client: {type(error).__name__}"
        self.counts[name][outcome] += 1


def server_errors(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """How often each attack was answered by 5xx, or found nobody listening."""
    found = {
        name: sum(count for outcome, count in each.items() if outcome.startswith("5") or outcome == "refused")
        for name, each in counts.items()
    }
    return {name: count for name, count in found.items() if count}
