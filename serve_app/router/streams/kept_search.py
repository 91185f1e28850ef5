"""Finds a kept answer that this router does not hold: at the other routers, then at the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from serve_app.core.interfaces import Clock
from serve_app.telemetry.reasons import ResumedFrom
from serve_app.token_channel.handover import Claim, ClaimReply, HandedOver, Moved

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Holders(Protocol):
    """The other router replicas, and all engine replicas. Replicas that are dead or do not answer in time are left
    out; nothing is raised."""

    async def ask_routers(self, claim: Claim) -> Sequence[ClaimReply]:
        """Ask every router replica."""

    async def ask_engines(self, claim: Claim) -> Sequence[ClaimReply]:
        """Ask every engine replica of every model."""


class KeptSearch:
    """Asks until somebody has the stream or nobody knows of it. Safe to use concurrently on one event loop."""

    def __init__(self, holders: Holders, timeout_s: float, clock: Clock) -> None:
        """A stream that is on its way between others is waited for at most `timeout_s` seconds."""
        self._holders = holders
        self._timeout_s = timeout_s
        self._clock = clock

    async def find(self, claim: Claim, is_here: Callable[[], bool]) -> tuple[ResumedFrom, HandedOver | None]:
        """What `claim` brings, and from where; None when nobody has it, or once it `is_here`.

        Engines are asked only when no router has it: its own must be gone, or hang.
        """
        give_up_at = self._clock() + self._timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            answers = list(await self._holders.ask_routers(claim))
            place = ResumedFrom.ROUTER
            if not any(isinstance(answer, HandedOver | Moved) for answer in answers):
                answers = list(await self._holders.ask_engines(claim))
                place = ResumedFrom.ENGINE
            parts = [answer for answer in answers if isinstance(answer, HandedOver)]
            if parts:
                return place, max(parts, key=lambda part: part.position)
            moved = any(isinstance(answer, Moved) for answer in answers)
            if not moved or is_here() or self._clock() >= give_up_at:
                return place, None
            # Somebody else takes it over at this moment: it can be taken from there as soon as it has arrived.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
