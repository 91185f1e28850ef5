"""The response to a chat or completion request, streamed or whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import Receive, Scope

from serve_app.core.errors import InternalError, ServeAppError
from serve_app.core.interfaces import Clock, RateLimitState, TokenStream
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.error_mapping import retry_after_ms, with_param
from serve_app.ingress.http.client_watch import ClientWatch
from serve_app.ingress.http.stream_response import StreamResponse, hold_s
from serve_app.openai_api.continuous_usage import ContinuousUsage
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.errors import document_of
from serve_app.openai_api.parse import ParsedRequest
from serve_app.openai_api.reply import Reply
from serve_app.openai_api.sse import SseWriter, error_event


class GenerationResponse(StreamResponse):
    """Opens the stream and answers when called; used once. See `StreamResponse`."""

    def __init__(
        self,
        open_stream: Callable[[], TokenStream],
        rate_limits: Callable[[], RateLimitState],
        parsed: ParsedRequest,
        envelope: Envelope,
        config: IngressConfig,
        clock: Clock,
        request_id: str,
        reply_headers: Mapping[str, str],
    ) -> None:
        super().__init__(config, clock, request_id, reply_headers, rate_limits)
        self._open_stream = open_stream
        self._parsed = parsed
        self._envelope = envelope

    async def _open(self) -> TokenStream:
        return self._open_stream()

    async def _answer(self, stream: TokenStream, client: ClientWatch, scope: Scope, receive: Receive) -> None:
        parsed = self._parsed
        if parsed.stream:
            writer = SseWriter(self._envelope, parsed.choices, parsed.sampling.n, parsed.include_usage)
            shown = ContinuousUsage(writer) if parsed.continuous_usage else writer
            await self._send_events(stream, client, shown, hold_s(scope, self._config))
            return
        reply = Reply(self._envelope, parsed.choices, parsed.sampling.n)
        while (events := await stream.next()) is not None:
            reply.read(events)
        if not reply.complete:
            raise InternalError("The stream ended before the answer did.")
        await self._send_document(reply.document(), scope, receive, client)

    def _for_client(self, error: ServeAppError) -> ServeAppError:
        return with_param(error, self._parsed.endpoint)

    async def _last_words(self, error: ServeAppError) -> bytes | None:
        return error_event(document_of(error), retry_after_ms(error)) if self._parsed.stream else None
