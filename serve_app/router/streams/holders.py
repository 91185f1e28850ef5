"""Where a router looks for a retained stream that it does not hold itself. Serve implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve_app.token_channel.handover import Claim, ClaimReply


class Holders(Protocol):
    """The other router replicas, and all engine replicas. Replicas that are dead or do not answer in time are left
    out; nothing is raised."""

    async def ask_routers(self, claim: Claim) -> Sequence[ClaimReply]:
        """Ask every router replica."""

    async def ask_engines(self, claim: Claim) -> Sequence[ClaimReply]:
        """Ask every engine replica of every model."""
