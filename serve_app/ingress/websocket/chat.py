"""`/v1/ws/chat`: chat completions multiplexed on one socket; docs/websocket.md has the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from serve_app.core.errors import InvalidRequest, Refused, ServeAppError, StreamConflict
from serve_app.core.interfaces import TokenStream
from serve_app.core.request import Retention
from serve_app.ingress.bytes_under_way import Claim
from serve_app.ingress.error_mapping import with_param
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.identity import Identity, clean_token
from serve_app.ingress.long_work import by_size
from serve_app.ingress.request_context import Urgency, urgency_of
from serve_app.ingress.resume import stream_id
from serve_app.ingress.resume.opening import AnswerEnvelope, fingerprint, opened_once
from serve_app.ingress.websocket.connection import Connection
from serve_app.ingress.websocket.frames import ChatFrames, error_message, pong
from serve_app.ingress.websocket.messages import (
    Authenticate,
    CancelRequest,
    ClientMessage,
    Ping,
    ResumeRequest,
    StartRequest,
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
        """Raises `InvalidRequest` for a handshake that is wrong, naming the header, or of nobody who is known."""
        self._connection = connection
        self._router = connection.router
        self._requests = requests
        self._urgency = urgency_of(connection.headers)
        # Who presents no token may do so in a message, before the first request.
        self._identity = None if connection.token is None else connection.identify(connection.token)

    def read(self, text: str) -> Callable[[Claim], None]:
        """What is to be done about a message, once it is called with the claim that accounts it.

        Safe to call in any thread; what it returns is not. Both raise `InvalidRequest`.
        """
        return partial(self._handle, parse_message(text))

    def _handle(self, message: ClientMessage, claim: Claim) -> None:
        if isinstance(message, StartRequest | ResumeRequest):
            self._begin(message, claim)
        elif isinstance(message, CancelRequest):
            self._requests.cancel(message.id)
        elif isinstance(message, Ping):
            self._connection.socket.reply(pong(message.id))
        else:
            self._authenticate(message)

    def _authenticate(self, message: Authenticate) -> None:
        if self._identity is not None:
            raise InvalidRequest("The token is known, or comes after the first request.", "type", "invalid_value")
        self._identity = self._connection.identify(clean_token(message.token))

    def _begin(self, message: StartRequest | ResumeRequest, claim: Claim) -> None:
        if message.id in self._requests:
            raise InvalidRequest(f"A request of id '{message.id}' is open on this socket.", "id", "id_in_use")
        try:
            self._requests.check_room()
        except Refused as error:
            self._connection.socket.reply(error_message(error, json_string(message.id).decode()))
            return
        if self._identity is None:
            self._identity = self._connection.identify(None)
        identity = self._identity
        held = claim.handed_on()
        if isinstance(message, StartRequest):
            request = self._asked_for(message, identity, held)
        else:
            request = self._resumed(message, identity.tenant)
        self._requests.start(message.id, request, held)

    def _asked_for(self, message: StartRequest, identity: Identity, claim: Claim) -> SocketRequest:
        router, request_id = self._router, self._connection.next_request_id()
        tenant, urgency = identity.tenant, _urgency(message, self._urgency)
        name, key = message.idempotency_key, None
        if name is not None:
            key = stream_id.named_key(router.signing_key, tenant, name)
        elif message.resume:
            key = stream_id.new_key()
        signed = None if key is None else stream_id.sign(router.signing_key, key, tenant)

        # Popped when it is read: whatever lives as long as the answer must not hold the message.
        client_id, unread = message.id, [bytes(message.body)]
        del message

        async def open_stream() -> TokenStream:
            body = unread.pop()
            try:
                parsed = await by_size(len(body), lambda: _parsed(body))
                seal = "" if name is None else await by_size(len(body), lambda: fingerprint(_SEALED_AS, body))
                retention = None if key is None else self._retention(key, parsed, seal)
                request = generation_request(
                    identity, urgency, request_id, parsed.model, parsed.prompts[0], parsed.sampling, retention
                )
            except ServeAppError as error:
                router.turned_away(request_id, tenant, error)
                raise
            finally:
                claim.release()
            return router.open(request) if name is None else (await opened_once(router, request)).stream

        return SocketRequest(
            request_id,
            open_stream,
            ChatFrames(client_id, request_id, signed),
            self._connection,
            in_message=_in_body,
            stop=None if key is None else lambda: router.cancel(key, tenant),
        )

    def _retention(self, key: str, parsed: ParsedRequest, seal: str) -> Retention:
        envelope = Envelope.new(parsed.endpoint, parsed.model, int(time.time()))
        retained = AnswerEnvelope(envelope.endpoint, envelope.id, envelope.created, envelope.model, fingerprint=seal)
        return Retention(key, retained.encode(), self._connection.config.resume_grace_s)

    def _resumed(self, message: ResumeRequest, tenant: str) -> SocketRequest:
        router, request_id = self._router, self._connection.next_request_id()
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
            stop=lambda: router.cancel(key(), tenant),
        )


def _parsed(body: bytes) -> ParsedRequest:
    parsed = parse_chat(body)
    if parsed.sampling.n != 1:
        raise InvalidRequest("'n' must be 1 here: send a request for each choice.", "n", "unsupported_value")
    return parsed


def _urgency(message: StartRequest, default: Urgency) -> Urgency:
    return Urgency(
        default.priority if message.priority is None else message.priority,
        default.timeout_s if message.timeout_ms is None else message.timeout_ms / 1000,
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
