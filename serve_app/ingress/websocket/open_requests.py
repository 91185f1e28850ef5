"""The requests that are open on one socket: bounded, found by the client's id, and ended together."""

from __future__ import annotations

import asyncio

from serve_app.core.errors import QueueFull, ReplicaLeaving
from serve_app.ingress.bytes_under_way import Claim
from serve_app.ingress.websocket.request import SocketRequest
from serve_app.ingress.websocket.socket import Socket


class OpenRequests:
    """Used by the one task that reads the socket; `async with` ends those that are left."""

    def __init__(self, socket: Socket, limit: int) -> None:
        self._socket = socket
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._named: dict[str, SocketRequest] = {}

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._named

    def check_room(self) -> None:
        """Raise `QueueFull` when one more is too many, and `ReplicaLeaving` when the replica is about to be stopped."""
        if self._socket.leaving:
            raise ReplicaLeaving("This replica is being replaced: connect again.")
        if len(self._tasks) >= self._limit:
            raise QueueFull(f"This socket has {self._limit} open requests; wait for one to end.")

    def start(
        self, client_id: str | None, request: SocketRequest, claim: Claim, turn: asyncio.Lock | None = None
    ) -> None:
        """Run `request`, once `turn` comes to it. The client may use `client_id` again when it knows of the end.

        `claim` accounts the request's message; it is released at the end, if it has not been before.
        """
        if client_id is not None:
            self._named[client_id] = request
        task = asyncio.create_task(self._run(client_id, request, turn))
        # Not in `_run`: a task that is cancelled before it begins never comes there.
        task.add_done_callback(lambda _: claim.release())
        self._tasks.add(task)
        self._socket.set_busy(True)

    def cancel(self, client_id: str) -> None:
        """Cancel the client's request of this id; nothing happens when there is none: it may have ended just now."""
        if (request := self._named.get(client_id)) is not None:
            request.cancel()

    async def __aenter__(self) -> OpenRequests:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, client_id: str | None, request: SocketRequest, turn: asyncio.Lock | None) -> None:
        def forget_id() -> None:
            if client_id is not None:
                del self._named[client_id]

        task = asyncio.current_task()
        assert task is not None
        try:
            if turn is None:
                await request.run(forget_id)
            else:
                async with turn:
                    await request.run(forget_id)
        finally:
            self._tasks.discard(task)
            self._socket.set_busy(bool(self._tasks))
