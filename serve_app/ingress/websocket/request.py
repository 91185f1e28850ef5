"""One request of a WebSocket, from its offer to its last message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from serve_app.core.errors import InternalError, ServeAppError, StreamNotFound
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import TokenStream
from serve_app.ingress.delivery.closing import close_completely
from serve_app.ingress.delivery.direct_delivery import Delivery, DirectDelivery
from serve_app.ingress.delivery.queue_news import QueueNews
from serve_app.ingress.websocket.connection import Connection
from serve_app.ingress.websocket.frames import Frames
from serve_app.ingress.websocket.socket import ClientGone

logger = logging.getLogger(__name__)


class SocketRequest:
    """Delivers one stream to one socket; `run` is a task of its own.

    `open_stream` offers or resumes; `stop` ends what outlives its reader, and is called when the client cancels.
    """

    def __init__(
        self,
        request_id: str,
        open_stream: Callable[[], Awaitable[TokenStream]],
        frames: Frames,
        connection: Connection,
        *,
        in_message: Callable[[ServeAppError], ServeAppError],
        stop: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`in_message` names the field at fault as the client's message has it."""
        self._request_id = request_id
        self._open_stream = open_stream
        self._frames = frames
        self._connection = connection
        self._stop = stop
        self._in_message = in_message
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    async def run(self, before_last: Callable[[], None]) -> None:
        """Deliver until the end, whatever it is. The stream is closed in any case, before the last message.

        `before_last` is called when only that is missing: the client may then use the request's id again.
        """
        self._task = asyncio.current_task()
        with contextlib.suppress(ClientGone):
            last = await self._ended()
            before_last()
            await self._connection.socket.send(last)

    async def _ended(self) -> list[str]:
        """Deliver all but the last messages, and return those."""
        try:
            return self._frames.cancelled() if self._cancelled else await self._deliver()
        except ServeAppError as error:
            if error.status >= 500:
                logger.warning("request %s failed: %s: %s", self._request_id, error.code, error.message)
            return self._frames.failed(self._in_message(error))
        except asyncio.CancelledError:
            if not self._cancelled or self._task is None or self._task.uncancel():
                raise
            return await self._stopped()
        except ClientGone:
            raise
        except Exception:
            logger.exception("request %s failed", self._request_id)
            return self._frames.failed(InternalError("The server had an internal error."))

    def cancel(self) -> None:
        """The client wants no more: end the generation, and say so in the last message."""
        if not self._cancelled:
            self._cancelled = True
            if self._task is not None:
                self._task.cancel()

    async def _deliver(self) -> list[str]:
        stream = await self._open_stream()
        try:
            return await self._read(stream)
        finally:
            await close_completely(stream)

    async def _read(self, stream: TokenStream) -> list[str]:
        frames, socket, clock = self._frames, self._connection.socket, self._connection.clock
        config = self._connection.config
        direct = DirectDelivery(stream, self._send_now)
        news = QueueNews(config.keepalive_s, clock())
        last: list[str] = []
        timeout_s: float | None = config.websocket.queue_look_s
        while (events := await direct.next(timeout_s)) is not None:
            messages = frames.write(events)
            if frames.complete:
                last += messages
                continue
            if frames.accepted:
                timeout_s = None
                direct.begin()
            elif not events and news.due(stream.queue_position, clock()):
                messages = frames.queued(news.place)
            if messages:
                await socket.send(messages)
        if not frames.complete:
            raise InternalError("The stream ended before the answer did.")
        return last

    def _send_now(self, events: Sequence[StreamEvent]) -> Delivery | None:
        messages = self._frames.write(events)
        return self._connection.socket.send_now(messages) if messages else None

    async def _stopped(self) -> list[str]:
        if self._stop is not None:
            try:
                await self._stop()
            except StreamNotFound:
                pass  # it has been forgotten already
            except ServeAppError as error:
                return self._frames.failed(self._in_message(error))
        return self._frames.cancelled()
