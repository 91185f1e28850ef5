"""Notices that the client has gone away or does not read, and stops the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from starlette.types import Message, Receive, Send

from serve_app.ingress.delivery.begun_work import begin

logger = logging.getLogger(__name__)


class ClientWatch:
    """Guards the block that answers one request: `async with ClientWatch(...) as client: await client.send(...)`.

    When the client disconnects, or one write makes no progress for `stall_s` seconds, the block is cancelled and left
    quietly, with `gone` set. A cancellation from outside goes through. Costs one task and one timer per request and
    nothing per write. Ray Serve cancels the request as well; plain ASGI servers only tell `receive`.
    """

    def __init__(self, receive: Receive, send: Send, stall_s: float) -> None:
        self._receive = receive
        self._send = send
        self._stall_s = stall_s
        self._owner: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writes_done = 0
        self._writing: int | None = None
        self._stalled: int | None = None
        self.gone = False

    async def send(self, message: Message) -> None:
        """Send one ASGI message."""
        self._writing = self._writes_done
        await self._send(message)
        self._writes_done += 1
        self._writing = None

    def send_now(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """Send one ASGI message without a task, as far as the server takes it at once.

        None when it was sent. Else what is to be awaited before anything else is sent: the server waits for the client
        to read, or sending failed and awaiting it raises.
        """
        return begin(self.send(message))

    async def __aenter__(self) -> ClientWatch:
        self._owner = asyncio.current_task()
        self._listener = asyncio.create_task(self._listen())
        self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._check_progress)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # Let go of: a cycle would keep the stream and its text until the garbage collector looks at old objects.
        listener, timer, owner = self._listener, self._timer, self._owner
        self._listener = self._timer = self._owner = None
        if listener is not None:
            listener.cancel()
        if timer is not None:
            timer.cancel()
        if not self.gone or owner is None:
            return False
        cancellations_left = owner.uncancel()
        return kind is asyncio.CancelledError and cancellations_left == 0

    async def _listen(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception as error:
            # The server lost the connection's receiving side: nobody is left to answer.
            logger.info("client connection lost: %s", type(error).__name__)  # its text may quote the message
        self._leave()

    def _check_progress(self) -> None:
        if self._writing is not None and self._writing == self._stalled:
            self._leave()
            return
        self._stalled = self._writing
        self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._check_progress)

    def _leave(self) -> None:
        if not self.gone and self._owner is not None:
            self.gone = True
            self._owner.cancel()
