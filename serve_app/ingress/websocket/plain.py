"""`/ws/chat`: a prompt in, tokens out, in the few words that simple clients know."""

from __future__ import annotations

import asyncio

import msgspec

from serve_app.core.errors import InvalidRequest, Refused, ServeAppError
from serve_app.core.interfaces import TokenStream
from serve_app.ingress.error_mapping import with_param
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.request_context import urgency_of
from serve_app.ingress.websocket.connection import Connection
from serve_app.ingress.websocket.frames import PlainFrames
from serve_app.ingress.websocket.messages import PlainPrompt, parse_prompt
from serve_app.ingress.websocket.open_requests import OpenRequests
from serve_app.ingress.websocket.request import SocketRequest
from serve_app.openai_api.parse import Endpoint, parse_chat


class PlainSession:
    """What one socket of `/ws/chat` does with each prompt: those without an id are answered one after the other."""

    def __init__(self, connection: Connection, requests: OpenRequests) -> None:
        """Raises `InvalidRequest` for a handshake that is wrong, naming the header, or of nobody who is known."""
        self._connection = connection
        self._router = connection.router
        self._requests = requests
        self._urgency = urgency_of(connection.headers)
        self._identity = connection.identify(connection.token)
        self._turn = asyncio.Lock()

    def handle(self, text: str) -> None:
        """Begin what the message asks for. Raises `InvalidRequest` for one that is not of the protocol."""
        prompt = parse_prompt(text)
        if prompt.id is not None and prompt.id in self._requests:
            raise InvalidRequest(f"A request of id '{prompt.id}' is open on this socket.", "id", "id_in_use")
        frames, request_id = PlainFrames(prompt.id), self._connection.next_request_id()
        try:
            self._requests.check_room()
        except Refused as error:
            for message in frames.failed(error):
                self._connection.socket.reply(message)
            return

        async def open_stream() -> TokenStream:
            return self._open(prompt, request_id)

        request = SocketRequest(request_id, open_stream, frames, self._connection, in_message=_in_prompt)
        self._requests.start(prompt.id, request, self._turn if prompt.id is None else None)

    def _open(self, prompt: PlainPrompt, request_id: str) -> TokenStream:
        router, identity = self._router, self._identity
        messages = [{"role": "user", "content": prompt.prompt}]
        try:
            model = prompt.model or identity.default_model(router.models())
            body = {"model": model, "messages": messages, "max_tokens": prompt.max_tokens}
            parsed = parse_chat(msgspec.json.encode(body))
            request = generation_request(
                identity, self._urgency, request_id, parsed.model, parsed.prompts[0], parsed.sampling
            )
        except ServeAppError as error:
            router.turned_away(request_id, identity.tenant, error)
            raise
        return router.open(request)


def _in_prompt(error: ServeAppError) -> ServeAppError:
    error = with_param(error, Endpoint.CHAT)
    if isinstance(error, InvalidRequest) and (error.param or "").startswith("messages"):
        return type(error)(error.message, "prompt", error.error_code)
    return error
