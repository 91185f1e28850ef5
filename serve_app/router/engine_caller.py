"""How the router reaches engine replicas: the control path, beside the token channel. Serve implements it."""

from __future__ import annotations

from typing import Protocol

from serve_app.core.request import GenerationRequest
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo
from serve_app.token_channel.retained_events import LogPositions, RetainedEvents


class EngineCaller(Protocol):
    """Calls to the engine replicas of all models. `group` is the deployment of the replica that is meant.

    Cancelling a call cancels it at the replica.
    """

    async def generate(self, engine_id: str, group: str, request: GenerationRequest, reply_to: ReplyTo) -> int:
        """Run a generation to its end at exactly this replica; how many events it sent on the channel.

        Raises `Rejected` when the replica did not take it, `EngineLost` when the replica is gone.
        """

    async def read_logs(self, engine_id: str, group: str, router_id: str, positions: LogPositions) -> RetainedEvents:
        """Events of this router's generations from these positions on, as the replica has retained them; of a replica
        that is gone, nothing is known. Raises `EngineLost`.
        """

    async def attach(self, engine_id: str, group: str, endpoint: ChannelEndpoint) -> None:
        """Ask a replica to connect to this router's channel; nothing happens where it is gone, or it raises
        `EngineLost`."""

    async def keep_only(self, engine_id: str, group: str, live: LiveStreams) -> None:
        """Have a replica abort this router's generations that are not among `live`. The same where it is gone."""

    def wake(self, group: str) -> None:
        """Make Serve see demand for a deployment without replicas. Repeated calls are one."""

    async def close(self) -> None:
        """Cancel what is under way."""
