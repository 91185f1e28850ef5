"""The HTTP responses that are made from a response's token stream: a new one, and one that is read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from starlette.types import Receive, Scope

from serve_app.core.errors import (
    ClientTooSlow,
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    ServeAppError,
    StreamConflict,
    StreamNotFound,
    StreamTakenOver,
    fresh,
)
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import Clock, KeptState, ResumedStream, Router, Sink, Skipped, TokenStream
from serve_app.core.request import GenerationRequest
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.delivery.closing import close_completely
from serve_app.ingress.http.client_watch import ClientWatch
from serve_app.ingress.http.stream_response import StreamResponse
from serve_app.ingress.responses.request import ResponseOffer, check_same
from serve_app.ingress.responses.response_id import response_found, response_key
from serve_app.openai_api.collected_answer import CollectedAnswer
from serve_app.openai_api.responses_document import (
    document,
    record_of,
    response_object,
    status_of,
)
from serve_app.openai_api.responses_events import ResponseEventWriter, last_number

_REFUSAL_WAIT_S = 0.1
"""A background response is answered at once, but for the refusals that the router makes at once."""
_READER_LOST = (ClientTooSlow, StreamTakenOver, StreamNotFound, InternalError)
"""Errors of a reader: a retained response may well go on, and can be read again."""


class _EventReply(StreamResponse):
    """A response as an event stream."""

    _writer: ResponseEventWriter | None = None
    _retained = True

    def _opening(self) -> bytes:
        return b"" if self._writer is None else self._writer.opening()

    async def _last_words(self, error: ServeAppError) -> bytes | None:
        if self._writer is None:
            return None
        if self._retained and isinstance(error, _READER_LOST):
            return self._writer.interruption(error)
        return self._writer.failure(error)


class NewResponse(_EventReply):
    """Offers a response's request to the router, or reads the one that the same request began, and answers when called;
    used once. See `StreamResponse`."""

    def __init__(
        self,
        router: Router,
        offer: ResponseOffer,
        streamed: bool,
        config: IngressConfig,
        clock: Clock,
        request_id: str,
        reply_headers: Mapping[str, str],
    ) -> None:
        """The answer is one JSON document unless it is `streamed`."""
        request = offer.request
        limits = partial(router.rate_limits, request.model, request.priority)
        super().__init__(config, clock, request_id, reply_headers, limits)
        self._router = router
        self._request = request
        self._record = offer.record
        self._begun = offer.begun
        self._streamed = streamed
        self._retained = request.retention is not None

    async def _open(self) -> TokenStream:
        if self._begun:
            return await self._read_again()
        try:
            return self._router.open(self._request)
        except StreamConflict:  # the same request came twice at the same moment
            return await self._read_again()

    async def _read_again(self) -> TokenStream:
        retention = self._request.retention
        assert retention is not None
        stream = await self._router.resume(retention.key, self._request.tenant)
        try:
            record = record_of(stream.request)
            check_same(record, self._record.seal)
        except BaseException:
            await close_completely(stream)
            raise
        self._request, self._record = stream.request, record
        return stream

    async def _answer(self, stream: TokenStream, client: ClientWatch, scope: Scope, receive: Receive) -> None:
        background = self._record.background
        if self._streamed:
            self._writer = ResponseEventWriter(self._record, self._request)
            hold_s = _REFUSAL_WAIT_S if background else self._config.header_hold_s
            await self._send_events(stream, client, self._writer, hold_s)
            return
        answer = CollectedAnswer()
        ended = False
        while not ended:
            events = await stream.next(_REFUSAL_WAIT_S if background else None)
            ended = events is None
            answer.read(events or ())
            if background:
                break
        if ended and not answer.complete:
            raise InternalError("The stream ended before the answer did.")
        status = status_of(answer, ended, None)
        whole = document(response_object(self._record, self._request, answer, status))
        await self._send_document(whole, scope, receive, client)

    def _for_client(self, error: ServeAppError) -> ServeAppError:
        """Engines do not know the names of this endpoint's fields."""
        if isinstance(error, ContextLengthExceeded):
            return ContextLengthExceeded(error.message, "input")
        if type(error) is InvalidRequest and error.param in ("messages", "prompt"):
            return InvalidRequest(error.message, "input", error.error_code)
        return error


class ResumedResponse(_EventReply):
    """The events of a retained response after the number `starting_after`, old ones and those to come; used once."""

    def __init__(
        self,
        router: Router,
        response_id: str,
        tenant: str,
        starting_after: int,
        config: IngressConfig,
        clock: Clock,
        request_id: str,
        reply_headers: Mapping[str, str],
    ) -> None:
        super().__init__(config, clock, request_id, reply_headers, None)
        self._router = router
        self._response_id = response_id
        self._tenant = tenant
        self._starting_after = starting_after

    async def _open(self) -> TokenStream:
        with response_found(self._response_id):
            key = response_key(self._router, self._response_id, self._tenant)
            stream = await self._stream(key)
            try:
                request = stream.request
                self._writer = ResponseEventWriter(record_of(request), request, self._starting_after)
                if self._starting_after >= 0:
                    self._check_number(await self._router.look_up(key, self._tenant))
            except BaseException:
                await close_completely(stream)
                raise
        return stream

    async def _stream(self, key: str) -> ResumedStream:
        router, tenant = self._router, self._tenant
        try:
            return await router.resume(key, tenant)
        except StreamNotFound:
            # Routers do not resume what was refused; but this is how a response in the background may have failed.
            answer = await router.look_up(key, tenant)
            if answer.error is None:
                raise
            return _FailedStream(answer.request, answer.error)

    def _check_number(self, answer: KeptState) -> None:
        """Raise `InvalidRequest` when there will be no event after the one that the client claims to have."""
        lost = answer.error is None or isinstance(answer.error, _READER_LOST)
        collected = CollectedAnswer(events=answer.events)
        last = last_number(record_of(answer.request), collected, answer.texts, ends_by_error=not lost)
        if answer.ended and self._starting_after > last:
            message = f"The response has ended, and its last event is number {last}."
            raise InvalidRequest(message, "starting_after", "invalid_value")

    async def _answer(self, stream: TokenStream, client: ClientWatch, scope: Scope, receive: Receive) -> None:
        assert self._writer is not None
        await self._start(client.send, self._writer.opening())
        await self._send_events(stream, client, self._writer, self._config.keepalive_s)


class _FailedStream:
    """Implements `core.interfaces.ResumedStream` for a response that failed before it had any output."""

    def __init__(self, request: GenerationRequest, error: ServeAppError) -> None:
        self.request = request
        self._error = error

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        """See `TokenStream.next`; never waits."""
        raise fresh(self._error)

    @property
    def queue_position(self) -> int | None:
        """It waits for nothing."""
        return None

    def skipped(self) -> Skipped:
        """See `ResumedStream.skipped`."""
        return Skipped(0, 0)

    async def aclose(self) -> None:
        """There is nothing to release."""
