"""The WebSocket routes: accepts sockets and serves each until it closes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from serve_app.core.errors import InvalidRequest, RouterBusy
from serve_app.core.request import ANONYMOUS_TENANT
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.cors import origin_error
from serve_app.ingress.long_work import by_size
from serve_app.ingress.origin import foreign_origin
from serve_app.ingress.request_context import request_id_of
from serve_app.ingress.websocket.chat import ChatSession
from serve_app.ingress.websocket.connection import Connection
from serve_app.ingress.websocket.frames import error_message
from serve_app.ingress.websocket.identity import chosen, handshake_token
from serve_app.ingress.websocket.messages import id_of
from serve_app.ingress.websocket.open_requests import OpenRequests
from serve_app.ingress.websocket.plain import PlainSession
from serve_app.ingress.websocket.socket import POLICY_VIOLATION, Socket
from serve_app.openai_api.json_text import json_string

Session = type[ChatSession] | type[PlainSession]


def add_websocket_routes(api: Api, context: ApiContext) -> None:
    """Add `/v1/ws/chat` and `/ws/chat` to `api`."""
    for path, session in (("/v1/ws/chat", ChatSession), ("/ws/chat", PlainSession)):
        api.router.routes.append(WebSocketRoute(path, _Endpoint(session, context)))


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An ASGI application for one path."""

    session: Session
    context: ApiContext

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        headers = Headers(scope=scope)
        page = foreign_origin(headers, self.context.config.allowed_origins)
        if page is not None:
            router, request_id = self.context.get_router(), request_id_of(headers)
            router.turned_away(request_id, ANONYMOUS_TENANT, origin_error(page))
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})  # before it is accepted: status 403
            return
        offers = scope.get("subprotocols", [])
        await send({"type": "websocket.accept", "subprotocol": chosen(offers)})
        context = self.context
        bounds = context.config.websocket
        socket = Socket(
            receive,
            send,
            stall_s=context.config.write_stall_s,
            idle_s=bounds.idle_timeout_s,
            max_message_bytes=bounds.max_message_bytes,
            max_replies=bounds.max_unsent_replies,
        )
        connection = Connection(
            context.get_router(),
            socket,
            headers,
            handshake_token(headers, offers),
            context.config,
            context.clock,
            context.authenticator,
        )
        departure = connection.router.departure
        async with socket, OpenRequests(socket, bounds.max_requests) as requests:
            with departure.told_to(socket.leave):
                await self._serve(connection, requests)

    async def _serve(self, connection: Connection, requests: OpenRequests) -> None:
        socket = connection.socket
        try:
            session = self.session(connection, requests)
        except InvalidRequest as error:
            socket.reply(error_message(error))
            socket.cut(POLICY_VIOLATION, error.message)
            return
        mistakes = 0
        while True:
            text: str | None = None
            try:
                text = await socket.receive()
                if text is None:
                    return
                with self.context.under_way.claim() as claim:
                    claim.hold(sys.getsizeof(text))
                    (await by_size(len(text), partial(session.read, text)))(claim)
                mistakes = 0
            except RouterBusy as error:
                socket.reply(error_message(error, await _named(text, requests)))
            except InvalidRequest as error:
                mistakes += 1
                socket.reply(error_message(error, await _named(text, requests)))
                if mistakes >= self.context.config.websocket.max_mistakes:
                    socket.cut(POLICY_VIOLATION, "too many malformed messages")


async def _named(text: str | None, requests: OpenRequests) -> str | None:
    """The id that an error is about, as JSON. An error with an id ends that request, but one that is open goes on."""
    about = None if text is None else await by_size(len(text), partial(id_of, text))
    return None if about is None or about in requests else json_string(about).decode()
