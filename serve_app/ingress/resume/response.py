"""The response with a kept answer: a new one, or one that goes on where its client was cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.types import Receive, Scope

from serve_app.core.errors import InternalError, ServeAppError
from serve_app.core.interfaces import Clock, Router, TokenStream
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.error_mapping import retry_after_ms, with_param
from serve_app.ingress.http.client_watch import ClientWatch
from serve_app.ingress.http.stream_response import StreamResponse, hold_s
from serve_app.ingress.resume.opening import OpenedAnswer
from serve_app.ingress.resume.stream_id import sign
from serve_app.openai_api.continuous_usage import ContinuousUsage
from serve_app.openai_api.errors import document_of
from serve_app.openai_api.reply import Reply
from serve_app.openai_api.resumable_sse import ResumableSseWriter
from serve_app.openai_api.sse import error_event

STREAM_ID = "x-stream-id"


class KeptAnswerResponse(StreamResponse):
    """Opens the stream and answers when called; used once. See `StreamResponse`.

    Closing the stream takes only this reader away: the generation goes on for the grace time of its request.
    """

    def __init__(
        self,
        router: Router,
        open_stream: Callable[[], Awaitable[OpenedAnswer]],
        streamed: bool,
        config: IngressConfig,
        clock: Clock,
        request_id: str,
        reply_headers: Mapping[str, str],
    ) -> None:
        """The answer is one JSON document unless it is `streamed`."""
        super().__init__(config, clock, request_id, reply_headers, None)
        self._router = router
        self._open_stream = open_stream
        self._streamed = streamed
        self._opened: OpenedAnswer | None = None

    async def _open(self) -> TokenStream:
        opened = self._opened = await self._open_stream()
        request = opened.request
        # Partial, not a closure: one that knew this response would be a cycle, and memory until it is found.
        self._rate_limits = partial(self._router.rate_limits, request.model, request.priority)
        self._reply_headers = {**self._reply_headers, STREAM_ID: self._stream_id(opened)}
        return opened.stream

    async def _answer(self, stream: TokenStream, client: ClientWatch, scope: Scope, receive: Receive) -> None:
        opened = self._opened
        assert opened is not None
        envelope = opened.envelope
        if self._streamed:
            writer = ResumableSseWriter(
                envelope.envelope, envelope.include_usage, self._stream_id(opened), opened.skipped
            )
            shown = ContinuousUsage(writer) if envelope.continuous_usage else writer
            await self._send_events(stream, client, shown, hold_s(scope, self._config))
            return
        reply = Reply(envelope.envelope, 1, 1)
        while (events := await stream.next()) is not None:
            reply.read(events)
        if not reply.complete:
            raise InternalError("The stream ended before the answer did.")
        await self._send_document(reply.document(), scope, receive, client)

    def _for_client(self, error: ServeAppError) -> ServeAppError:
        return error if self._opened is None else with_param(error, self._opened.envelope.endpoint)

    async def _last_words(self, error: ServeAppError) -> bytes | None:
        return error_event(document_of(error), retry_after_ms(error)) if self._streamed else None

    def _comment(self, place: int | None) -> bytes:
        # No empty line after it: OpenAI's SDKs take one for an event, once an event had an id.
        return super()._comment(place).removesuffix(b"\n")

    def _stream_id(self, opened: OpenedAnswer) -> str:
        retention = opened.request.retention
        assert retention is not None
        return sign(self._router.signing_key, retention.key, opened.request.tenant)
