"""One accepted WebSocket: bounded messages in, fairly interleaved messages out, and who has to be cut."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any

from starlette.types import Message, Receive, Send

from serve_app.core.errors import InvalidRequest, PayloadTooLarge
from serve_app.ingress.delivery.begun_work import begin
from serve_app.ingress.websocket.turns import Turns

logger = logging.getLogger(__name__)

POLICY_VIOLATION = 1008
SERVICE_RESTART = 1012
"""In IANA's registry of WebSocket close codes: connect again."""
_NORMAL = 1000
_INTERNAL_ERROR = 1011
_CLOSING_S = 5.0
"""Longest wait for the last message to a client that may not read."""


class ClientGone(Exception):
    """A message could not be sent: the connection is closed or lost."""


class Socket:
    """The block that serves one socket: `async with Socket(...) as socket: ... await socket.receive()`.

    Each sender takes its turn behind those that already wait, so that the requests of one socket share it evenly, and
    `send` returns when the server has taken the message: what a client does not read waits in the router's bounded
    buffers. When one message makes no progress for `stall_s` seconds, when too many replies wait, or when the socket
    was idle for `idle_s`, `receive` tells the end as if the client had gone. Leaving the block closes the socket.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        *,
        stall_s: float,
        idle_s: float,
        max_message_bytes: int,
        max_replies: int,
    ) -> None:
        self._receive = receive
        self._send = send
        self._stall_s = stall_s
        self._idle_s = idle_s
        self._max_message_bytes = max_message_bytes
        self._max_replies = max_replies
        self._turns = Turns()
        self._replies: deque[str] = deque()
        self._replying: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._active_at = self._loop.time()
        self._writes_begun = 0
        self._writing = False
        self._stalled: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._receiving: asyncio.Task[object] | None = None
        self._readable = True
        self._cut: tuple[int, str] | None = None
        self.leaving = False
        """Whether the socket closes after its last open request."""

    async def receive(self) -> str | None:
        """The next text message; None when the client has gone or was cut. For the task that entered the block.

        Raises `InvalidRequest` for a binary message and `PayloadTooLarge`: the socket goes on after both.
        """
        message = await self._received()
        if message is None or message["type"] == "websocket.disconnect":
            return None
        self._active_at = self._loop.time()
        text: str | None = message.get("text")
        if text is None:
            raise InvalidRequest("Send text messages; this one was binary.", None, "invalid_type")
        # A character is four bytes at most: most messages need no look at each.
        if len(text) * 4 > self._max_message_bytes and len(text.encode()) > self._max_message_bytes:
            raise PayloadTooLarge(f"The message is larger than {self._max_message_bytes} bytes.")
        return text

    async def send(self, messages: Sequence[str]) -> None:
        """Send `messages`, one after the other, once all who asked before have sent theirs. Raises `ClientGone`."""
        async with self._turns:
            for message in messages:
                self._writes_begun += 1
                self._writing = True
                try:
                    await self._send({"type": "websocket.send", "text": message})
                except Exception as error:
                    raise ClientGone(str(error)) from error
                finally:
                    self._writing = False

    def send_now(self, messages: Sequence[str]) -> Coroutine[Any, Any, None] | None:
        """`send` without a task, as far as turns and server allow; what it returns is to be awaited, or closed."""
        return begin(self.send(messages))

    def reply(self, message: str) -> None:
        """Send `message` when there is time; for answers to what the client sends, which nobody waits for."""
        if len(self._replies) >= self._max_replies:
            self.cut(POLICY_VIOLATION, "too many replies unread")
            return
        self._replies.append(message)
        if self._replying is None or self._replying.done():
            self._replying = asyncio.create_task(self._send_replies())

    def set_busy(self, busy: bool) -> None:
        """Whether requests are open: a socket that has some is never idle, and begins to be after the last one."""
        self._busy = busy
        self._active_at = self._loop.time()
        if self.leaving:
            self.leave()

    def leave(self) -> None:
        """Close the socket as soon as no request is open, since its replica is about to be stopped."""
        self.leaving = True
        if not self._busy:
            self.cut(SERVICE_RESTART, "this replica is being replaced")

    def cut(self, code: int, reason: str) -> None:
        """Let `receive` tell the end, and close the socket with `code` (RFC 6455, section 7.4) after the block."""
        if self._cut is None:
            self._cut = (code, reason)
            if self._receiving is not None:
                self._receiving.cancel()

    async def __aenter__(self) -> Socket:
        self._look_later()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._readable and (kind is None or issubclass(kind, Exception)):
                ending = (_NORMAL, "") if kind is None else (_INTERNAL_ERROR, "internal error")
                await self._close(*(self._cut or ending))
        finally:
            if self._replying is not None:
                self._replying.cancel()

    async def _received(self) -> Message | None:
        if self._cut is not None:
            return None
        self._receiving = asyncio.current_task()
        message: Message | None = None
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._cut is None or self._receiving is None or self._receiving.uncancel():
                raise
            return None
        except Exception as error:
            logger.info("client connection lost: %s", type(error).__name__)  # its text may quote the message
        finally:
            self._receiving = None
        if message is None or message["type"] == "websocket.disconnect":
            self._readable = False
        return message

    async def _send_replies(self) -> None:
        with contextlib.suppress(ClientGone):  # whoever receives learns of it as well
            while self._replies:
                await self.send([self._replies.popleft()])

    async def _close(self, code: int, reason: str) -> None:
        message: Message = {"type": "websocket.close", "code": code, "reason": reason}
        try:
            async with asyncio.timeout(_CLOSING_S):
                if self._replying is not None:
                    await self._replying
                await self._send(message)
        except Exception as error:
            logger.info("client connection lost: %s", type(error).__name__)  # its text may quote the message

    def _look_later(self) -> None:
        every_s = min(self._stall_s, self._idle_s)
        self._timer = self._loop.call_later(every_s, self._look)

    def _look(self) -> None:
        if self._writing and self._stalled == self._writes_begun:
            # No closing message: it would wait behind what is not read. The server ends the connection.
            self._readable = False
            self.cut(POLICY_VIOLATION, "output unread")
        self._stalled = self._writes_begun if self._writing else None
        if not self._busy and self._loop.time() - self._active_at >= self._idle_s:
            self.cut(_NORMAL, "idle")
        self._look_later()
