"""The part that all responses made from a token stream share: how it is begun, written, kept alive, and ended.

Raw ASGI instead of a streaming-response class: one `send` for each batch of tokens, and the status line waits for the
first token, so that every failure before it ends in a truthful status. A token is cheap because `send` is the server's
own, and because few coroutines are above this one (`api_application`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.core.errors import InternalError, ServeAppError
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import Clock, RateLimitState, TokenStream
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.delivery.closing import close_completely
from serve_app.ingress.delivery.queue_news import QueueNews
from serve_app.ingress.http.client_watch import ClientWatch
from serve_app.ingress.http.direct_writer import DirectWriter
from serve_app.ingress.http.errors import error_response
from serve_app.ingress.http.rate_limit_headers import rate_limit_headers
from serve_app.openai_api.sse import KEEP_ALIVE, queued_comment

logger = logging.getLogger(__name__)

_SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # nginx, and proxies that follow it, then pass the stream through unbuffered.
    "x-accel-buffering": "no",
}
_SHORTEST_WAIT_S = 0.1
_PREFERRED_WAIT = re.compile(rb"(?:^|[,;]\s*)wait\s*=\s*\"?([0-9]{1,6})\b", re.IGNORECASE).search


def hold_s(scope: Scope, config: IngressConfig) -> float:
    """Seconds for which headers wait for the first token: `header_hold_s`, or less if the client prefers so.

    It does with `Prefer: wait=SECONDS` (RFC 7240, section 4.3): a page that shows the place in the queue wants to know
    soon, and takes errors as events.
    """
    for name, value in scope["headers"]:
        if name == b"prefer" and (wait := _PREFERRED_WAIT(value)) is not None:
            return min(config.header_hold_s, max(_SHORTEST_WAIT_S, float(wait.group(1))))
    return config.header_hold_s


class EventWriter(Protocol):
    """Writes the events of one stream as the body of an event stream."""

    @property
    def begun(self) -> bool:
        """Whether a token or an end has been written, after which errors can only be events."""

    @property
    def complete(self) -> bool:
        """Whether every choice has ended."""

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """The body's bytes for `events`; empty when they show nothing."""

    def closing(self) -> bytes:
        """What follows the last event."""


class StreamResponse(Response, ABC):
    """Opens a stream and answers when called; used once.

    `reply_headers` go out with every status, and what `rate_limits` gives at that moment with every one that follows
    an offer to the router. The stream is closed however the answer ends: done, failed, client gone, or cancelled.
    """

    def __init__(
        self,
        config: IngressConfig,
        clock: Clock,
        request_id: str,
        reply_headers: Mapping[str, str],
        rate_limits: Callable[[], RateLimitState] | None,
    ) -> None:
        super().__init__()
        self._config = config
        self._clock = clock
        self._request_id = request_id
        self._reply_headers = reply_headers
        self._rate_limits = rate_limits
        self._offered = False
        self._started = False

    @abstractmethod
    async def _open(self) -> TokenStream:
        """The stream to answer from; called once."""

    @abstractmethod
    async def _answer(self, stream: TokenStream, client: ClientWatch, scope: Scope, receive: Receive) -> None:
        """Send the answer; errors of the stream are raised."""

    @abstractmethod
    async def _last_words(self, error: ServeAppError) -> bytes | None:
        """The rest of the body when `error` comes after status 200; None when the body cannot tell it."""

    def _for_client(self, error: ServeAppError) -> ServeAppError:
        """`error` in the words of this endpoint."""
        return error

    def _opening(self) -> bytes:
        """What the body of an event stream begins with when its headers go out before its first events."""
        return b""

    def _comment(self, place: int | None) -> bytes:
        """What an event stream says in a silence; `place` is the number of requests ahead in the queue, if it waits."""
        return KEEP_ALIVE if place is None else queued_comment(place)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        try:
            stream = await self._open()
            self._offered = True
            try:
                async with ClientWatch(receive, send, self._config.write_stall_s) as client:
                    await self._answer(stream, client, scope, receive)
            finally:
                await close_completely(stream)
        except ServeAppError as error:
            if error.status >= 500:
                logger.warning("request %s failed: %s: %s", self._request_id, error.code, error.message)
            await self._fail(error, scope, receive, send)
        except Exception:
            logger.exception("request %s failed", self._request_id)
            await self._fail(InternalError("The server had an internal error."), scope, receive, send)

    async def _send_events(self, stream: TokenStream, client: ClientWatch, writer: EventWriter, hold_s: float) -> None:
        """Write `stream` as an event stream; its headers wait up to `hold_s` seconds for the first token.

        Whoever waits in the queue is told each new place, and of silence every `keepalive_s`.
        """
        config = self._config
        direct = DirectWriter(stream, writer.write, client)
        hold_until = self._clock() + hold_s
        timeout_s = hold_s
        news = QueueNews(config.keepalive_s, hold_until)
        last = b""
        while (events := await direct.next(timeout_s)) is not None:
            if not events:
                # With no place to look at, what has passed is `keepalive_s`.
                if news.due(stream.queue_position, self._clock()) or news.place is None:
                    await self._start(client.send, self._opening())
                    await _send_body(client.send, self._comment(news.place))
                timeout_s = config.keepalive_s if news.place is None else config.queue_look_s
                continue
            chunk = writer.write(events)
            if writer.complete:
                last += chunk
                continue
            if writer.begun:
                await self._start(client.send)
                direct.begin()
            if chunk:
                await _send_body(client.send, chunk)
            timeout_s = config.keepalive_s if self._started else max(_SHORTEST_WAIT_S, hold_until - self._clock())
        if not writer.complete:
            raise InternalError("The stream ended before the answer did.")
        await self._start(client.send)
        await _send_body(client.send, last + writer.closing(), more=False)

    async def _send_document(self, document: bytes, scope: Scope, receive: Receive, client: ClientWatch) -> None:
        self._started = True
        await Response(document, 200, self._present_headers(), "application/json")(scope, receive, client.send)

    async def _start(self, send: Send, opening: bytes = b"") -> None:
        if self._started:
            return
        self._started = True
        headers = [(k.encode(), v.encode()) for k, v in {**_SSE_HEADERS, **self._present_headers()}.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if opening:
            await _send_body(send, opening)

    def _present_headers(self) -> dict[str, str]:
        if not self._offered or self._rate_limits is None:
            return dict(self._reply_headers)
        return {**self._reply_headers, **rate_limit_headers(self._rate_limits())}

    async def _fail(self, error: ServeAppError, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._for_client(error)
        try:
            async with asyncio.timeout(self._config.write_stall_s):
                if not self._started:
                    await error_response(error, self._present_headers())(scope, receive, send)
                elif (last := await self._last_words(error)) is not None:  # empty where the client has it already
                    await _send_body(send, last, more=False)
        except TimeoutError:
            logger.info("request %s: the client does not read its error", self._request_id)


async def _send_body(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
