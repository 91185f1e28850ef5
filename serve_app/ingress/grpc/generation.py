"""One generation that a gRPC client asked for: its offer to the router, its messages, and its end."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from serve_app.core.errors import InternalError, NotAuthenticated, ServeAppError
from serve_app.core.interfaces import Clock, KeptState, Router, TokenStream
from serve_app.core.request import ANONYMOUS_TENANT, GenerationRequest, Retention
from serve_app.ingress.bytes_under_way import BytesUnderWay, Claim
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.delivery.closing import close_completely
from serve_app.ingress.delivery.queue_news import QueueNews
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.grpc.answer import AnswerWriter
from serve_app.ingress.grpc.call import Call, CallContext, headers_of
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.request import (
    check_counts,
    check_envelope,
    fingerprint_of,
    in_message,
    parse_generation,
    priority_of,
    timeout_of,
)
from serve_app.ingress.identity import AnyToken, Authenticator, bearer_token
from serve_app.ingress.long_work import by_size
from serve_app.ingress.request_context import Urgency, request_id_of
from serve_app.ingress.resume import stream_id
from serve_app.ingress.resume.opening import AnswerEnvelope, opened_once
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint

_SHORTEST_TIMEOUT_S = 0.001

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generations:
    """Makes generations of requests. Shared by all calls of a router; `clock` is monotonic seconds."""

    router: Router
    config: IngressConfig
    under_way: BytesUnderWay
    clock: Clock = time.monotonic
    authenticator: Authenticator = field(default_factory=AnyToken)

    def call(self, context: CallContext) -> Call:
        """The call of `context`. Raises `NotAuthenticated`, and `InvalidRequest` naming the metadata that is wrong."""
        metadata = headers_of(context)
        try:
            identity = self.authenticator.identify(bearer_token(metadata))
        except NotAuthenticated as error:
            self.router.turned_away(request_id_of(metadata), ANONYMOUS_TENANT, error)
            raise
        return Call(metadata, identity, self.clock())

    def new(self, message: ChatRequest, call: Call, request_id: str) -> Generation:
        """The generation, or the rest of one, that `message` asks for. Nothing is done yet, but the message accounted.

        Raises `RouterBusy`, and `InvalidRequest` for lists that are too long. Whoever asks calls `discard` in the end.
        """
        return Generation(self, message, call, request_id, self._claim(message, call, request_id))

    async def open_whole(self, message: LLMRequest, call: Call) -> tuple[GenerationRequest, TokenStream]:
        """Offer a request whose answer is wanted whole. Raises as `Router.open`, and `InvalidRequest`."""
        with self._claim(message, call, call.request_id):
            request = await self.request(message, call, call.request_id, self.clock())
            return request, self.router.open(request)

    def _claim(self, message: ChatRequest | LLMRequest, call: Call, request_id: str) -> Claim:
        claim = self.under_way.claim()
        try:
            check_counts(message)
            claim.hold(message.ByteSize())
        except ServeAppError as error:
            self.router.turned_away(request_id, call.identity.tenant, error)
            raise
        return claim

    async def request(
        self,
        message: ChatRequest | LLMRequest,
        call: Call,
        request_id: str,
        arrived_at: float,
        key: str | None = None,
        fingerprint: str = "",
    ) -> GenerationRequest:
        """What to offer to the router, to be kept under `key` if one is given. Raises `InvalidRequest`.

        `arrived_at` is when `message` came, by `clock`: it may have waited for its turn since.
        """
        try:
            default_model = call.identity.default_model(self.router.models())
            most_bytes = self.config.max_body_bytes
            parsed = await by_size(message.ByteSize(), lambda: parse_generation(message, default_model, most_bytes))
            retention = None
            if key is not None:
                retention = Retention(key, _envelope(parsed.model, fingerprint), self.config.resume_grace_s)
            return generation_request(
                call.identity,
                self._urgency(message, call, arrived_at, kept=key is not None),
                request_id,
                parsed.model,
                parsed.prompts[0],
                parsed.sampling,
                retention,
            )
        except ServeAppError as error:
            self.router.turned_away(request_id, call.identity.tenant, error)
            raise

    def _urgency(self, message: ChatRequest | LLMRequest, call: Call, arrived_at: float, kept: bool) -> Urgency:
        priority, timeout_s = call.urgency.priority, call.urgency.timeout_s
        if isinstance(message, ChatRequest):
            priority, timeout_s = priority_of(message, priority), timeout_of(message, timeout_s)
        deadlines = [] if timeout_s is None else [arrived_at + timeout_s]
        # A kept stream outlives the call, and with it the time for which its client waits for this one.
        if call.deadline is not None and not kept:
            deadlines.append(call.deadline)
        left_s = max(_SHORTEST_TIMEOUT_S, min(deadlines) - self.clock()) if deadlines else None
        return Urgency(priority, left_s)

    async def stop(self, message: ChatRequest, call: Call) -> KeptState:
        """End the kept stream that `message` names. Raises `StreamNotFound`."""
        key = stream_id.verify(self.router.signing_key, message.stream_id, call.identity.tenant)
        return await self.router.cancel(key, call.identity.tenant)


class Generation:
    """Delivers one answer; `messages` is read once, by one task."""

    def __init__(
        self, generations: Generations, message: ChatRequest, call: Call, request_id: str, claim: Claim
    ) -> None:
        """`claim` accounts the message until it is parsed."""
        self._claim = claim
        self._generations = generations
        self._message = message
        self._call = call
        self._request_id = request_id
        self._arrived_at = generations.clock()
        self._writer = AnswerWriter(message.id or request_id, self._elapsed_ms)
        self._key: str | None = None

    async def messages(self) -> AsyncGenerator[ChatResponse, None]:
        """The answer's messages, `done` as the last. The stream is closed however this ends.

        Raises `ServeAppError`; `failed` says it to the client.
        """
        stream = await self._open()
        try:
            async with aclosing(self._read(stream)) as messages:
                async for message in messages:
                    yield message
        finally:
            await close_completely(stream)
        yield self._writer.done()

    def discard(self) -> None:
        """Give back what is accounted for it. Idempotent."""
        self._claim.release()

    async def stop(self) -> None:
        """End a stream that outlives its reader; called when the client cancels."""
        if self._key is not None:
            await self._generations.router.cancel(self._key, self._call.identity.tenant)

    def cancelled(self) -> ChatResponse:
        """The last message once the client has cancelled."""
        return self._writer.cancelled()

    def failed(self, error: Exception) -> tuple[ServeAppError, ChatResponse]:
        """`error` as the client is told, and the message that tells it. Logs what is our fault."""
        known = known_error(error, self._request_id)
        known = in_message(known, self._message)
        return known, self._writer.failed(known)

    async def _open(self) -> TokenStream:
        router, message, call = self._generations.router, self._message, self._call
        check_envelope(message)
        if message.stream_id:
            self._key = stream_id.verify(router.signing_key, message.stream_id, call.identity.tenant)
            resumed = await router.resume(self._key, call.identity.tenant, message.position)
            self._writer.introduce(resumed.request.model, message.stream_id, message.position)
            return resumed
        named, key = message.idempotency_key, None
        if named:
            key = stream_id.named_key(router.signing_key, call.identity.tenant, named)
        elif message.resume:
            key = stream_id.new_key()
        fingerprint = await by_size(message.ByteSize(), lambda: fingerprint_of(message)) if named else ""
        request = await self._generations.request(message, call, self._request_id, self._arrived_at, key, fingerprint)
        stream = (await opened_once(router, request)).stream if named else router.open(request)
        self._claim.release()
        self._key = key
        self._writer.introduce(
            request.model, "" if key is None else stream_id.sign(router.signing_key, key, call.identity.tenant), 0
        )
        return stream

    def _elapsed_ms(self) -> float:
        return (self._generations.clock() - self._arrived_at) * 1000

    async def _read(self, stream: TokenStream) -> AsyncGenerator[ChatResponse, None]:
        writer, clock = self._writer, self._generations.clock
        config = self._generations.config
        news = QueueNews(config.keepalive_s, clock())
        timeout_s = config.grpc.queue_look_s
        while (events := await stream.next(timeout_s)) is not None:
            if events:
                timeout_s = config.keepalive_s
                message = writer.write(events)
            else:
                message = writer.queued(news.place) if news.due(stream.queue_position, clock()) else None
            if message is not None:
                news.told_at = clock()
                yield message
        if not writer.complete:
            raise InternalError("The stream ended before the answer did.")


def known_error(error: Exception, request_id: str) -> ServeAppError:
    """`error`, or what clients are told in place of one that nobody expected. Logs what is our fault."""
    if not isinstance(error, ServeAppError):
        logger.error("request %s failed", request_id, exc_info=error)
        return InternalError("The server had an internal error.")
    if error.status >= 500:
        logger.warning("request %s failed: %s: %s", request_id, error.code, error.message)
    return error


def _envelope(model: str, fingerprint: str) -> bytes:
    envelope = Envelope.new(Endpoint.CHAT, model, int(time.time()))
    kept = AnswerEnvelope(envelope.endpoint, envelope.id, envelope.created, model, fingerprint=fingerprint)
    return kept.encode()
