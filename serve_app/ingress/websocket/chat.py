"""`/v1/ws/chat`: chat completions multiplexed on one socket; docs/websocket.md has the protocol."""

from __future__ import annotations

import time

from serve_app.core.errors import InvalidRequest, QueueFull, ServeAppError, StreamConflict
from serve_app.core.interfaces import TokenStream
from serve_app.core.request import ANONYMOUS_TENANT, GenerationRequest, Retention
from serve_app.ingress.error_mapping import with_param
from serve_app.ingress.request_context import RequestContext, request_context
from serve_app.ingress.resume import stream_id
from serve_app.ingress.resume.envelope import RetainedEnvelope, fingerprint
from serve_app.ingress.resume.opening import opened_once
from serve_app.ingress.websocket.connection import Connection
from serve_app.ingress.websocket.frames import ChatFrames, error_message, pong
from serve_app.ingress.websocket.identity import with_token
from serve_app.ingress.websocket.messages import (
    Authenticate,
    CancelRequest,
    ChatRequest,
    Ping,
    ResumeRequest,
    parse_message,
)
from serve_app.ingress.websocket.open_requests import OpenRequests
from serve_app.ingress.websocket.request import SocketRequest
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.parse import Endpoint, ParsedRequest, parse_chat

_SEALED_AS = "ChatSession"
"""Where a path stands over HTTP: the same name there is another request."""


class ChatSession:
    """What one socket of `/v1/ws/chat` does with each message."""

    def __init__(self, connection: Connection, requests: OpenRequests) -> None:
        """Raises `InvalidRequest` naming the header of the handshake that is wrong."""
        self._connection = connection
        self._router = connection.router
        self._requests = requests
        self._context = request_context(connection.headers)
        self._asked = False

    def handle(self, text: str) -> None:
        """Do what the message says. Raises `InvalidRequest` for one that is not of the protocol."""
        message = parse_message(text)
        if isinstance(message, ChatRequest | ResumeRequest):
            self._begin(message)
        elif isinstance(message, CancelRequest):
            self._requests.cancel(message.id)
        elif isinstance(message, Ping):
            self._connection.socket.reply(pong(message.id))
        else:
            self._authenticate(message)

    def _authenticate(self, message: Authenticate) -> None:
        if self._asked or self._context.tenant != ANONYMOUS_TENANT:
            raise InvalidRequest("The token is known, or comes after the first request.", "type", "invalid_value")
        self._context = request_context(with_token(self._connection.headers, message.token))

    def _begin(self, message: ChatRequest | ResumeRequest) -> None:
        self._asked = True
        if message.id in self._requests:
            raise InvalidRequest("A request of this id is open on this socket.", "id", "id_in_use")
        try:
            self._requests.check_room()
        except QueueFull as error:
            self._connection.socket.reply(error_message(error, json_string(message.id).decode()))
            return
        request = self._asked_for(message) if isinstance(message, ChatRequest) else self._resumed(message)
        self._requests.start(message.id, request)

    def _asked_for(self, message: ChatRequest) -> SocketRequest:
        router, context, request_id = self._router, self._context, self._connection.next_request_id()
        name, key = message.idempotency_key, None
        if name is not None:
            key = stream_id.named_key(router.signing_key, context.tenant, name)
        elif message.resume:
            key = stream_id.new_key()
        signed = None if key is None else stream_id.sign(router.signing_key, key, context.tenant)

        async def open_stream() -> TokenStream:
            try:
                parsed = _parsed(message)
            except ServeAppError as error:
                router.turned_away(request_id, context.tenant, error)
                raise
            seal = "" if name is None else fingerprint(_SEALED_AS, bytes(message.body))
            retention = None if key is None else self._retention(key, parsed, seal)
            request = _generation_request(message, parsed, request_id, context, retention)
            return router.open(request) if name is None else (await opened_once(router, request)).stream

        return SocketRequest(
            request_id,
            open_stream,
            ChatFrames(message.id, request_id, signed),
            self._connection,
            in_message=_in_body,
            stop=None if key is None else lambda: router.stop_retained(key, context.tenant),
        )

    def _retention(self, key: str, parsed: ParsedRequest, seal: str) -> Retention:
        envelope = Envelope.new(parsed.endpoint, parsed.model, int(time.time()))
        retained = RetainedEnvelope(envelope.endpoint, envelope.id, envelope.created, envelope.model, fingerprint=seal)
        return Retention(key, retained.encode(), self._connection.config.resume_grace_s)

    def _resumed(self, message: ResumeRequest) -> SocketRequest:
        router, tenant, request_id = self._router, self._context.tenant, self._connection.next_request_id()
        named, position = message.stream_id or message.id, message.position or 0

        def key() -> str:
            return stream_id.verify(router.signing_key, named, tenant)

        async def open_stream() -> TokenStream:
            return await router.resume(key(), tenant, position)

        def in_message(error: ServeAppError) -> ServeAppError:
            if not isinstance(error, InvalidRequest):
                return error
            if error.param == "offset":
                return _with_param(error, "position")
            return _with_param(error, "id" if message.stream_id is None else "stream_id")

        return SocketRequest(
            request_id,
            open_stream,
            ChatFrames(message.id, request_id, named, position),
            self._connection,
            in_message=in_message,
            stop=lambda: router.stop_retained(key(), tenant),
        )


def _parsed(message: ChatRequest) -> ParsedRequest:
    parsed = parse_chat(bytes(message.body))
    if parsed.sampling.n != 1:
        raise InvalidRequest("'n' must be 1 here: send a request for each choice.", "n", "unsupported_value")
    return parsed


def _generation_request(
    message: ChatRequest, parsed: ParsedRequest, request_id: str, context: RequestContext, retention: Retention | None
) -> GenerationRequest:
    return GenerationRequest(
        request_id=request_id,
        model=parsed.model,
        prompt=parsed.prompts[0],
        sampling=parsed.sampling,
        tenant=context.tenant,
        priority=context.priority if message.priority is None else message.priority,
        timeout_s=context.timeout_s if message.timeout_ms is None else message.timeout_ms / 1000,
        retention=retention,
    )


def _in_body(error: ServeAppError) -> ServeAppError:
    error = with_param(error, Endpoint.CHAT)
    if not isinstance(error, InvalidRequest):
        return error
    if isinstance(error, StreamConflict):
        return _with_param(error, "idempotency_key")
    return _with_param(error, "body" if error.param is None else f"body.{error.param}")


def _with_param(error: InvalidRequest, param: str) -> InvalidRequest:
    return type(error)(error.message, param, error.error_code)
