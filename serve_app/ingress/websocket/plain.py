"""`/ws/chat`: a prompt in, tokens out, in the few words that simple clients know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from serve_app.core.errors import InvalidRequest, Refused, ServeAppError
from serve_app.core.interfaces import TokenStream
from serve_app.ingress.bytes_under_way import Claim
from serve_app.ingress.error_mapping import with_param
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.long_work import by_size
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

    def read(self, text: str) -> Callable[[Claim], None]:
        """See `ChatSession.read`."""
        return partial(self._handle, parse_prompt(text))

    def _handle(self, prompt: PlainPrompt, claim: Claim) -> None:
        if prompt.id is not None and prompt.id in self._requests:
            raise InvalidRequest(f"A request of id '{prompt.id}' is open on this socket.", "id", "id_in_use")
        frames, request_id = PlainFrames(prompt.id), self._connection.next_request_id()
        try:
            self._requests.check_room()
        except Refused as error:
            for message in frames.failed(error):
                self._connection.socket.reply(message)
            return

        # Popped when it is read: whatever lives as long as the answer must not hold the message.
        client_id, unread, held = prompt.id, [prompt], claim.handed_on()
        del prompt

        async def open_stream() -> TokenStream:
            stream = await self._open(unread.pop(), request_id)
            held.release()
            return stream

        request = SocketRequest(request_id, open_stream, frames, self._connection, in_message=_in_prompt)
        self._requests.start(client_id, request, held, self._turn if client_id is None else None)

    async def _open(self, prompt: PlainPrompt, request_id: str) -> TokenStream:
        router, identity = self._router, self._identity
        messages = [{"role": "user", "content": prompt.prompt}]
        try:
            model = prompt.model or identity.default_model(router.models())
            body = {"model": model, "messages": messages, "max_tokens": prompt.max_tokens}
            parsed = await by_size(len(prompt.prompt), lambda: parse_chat(msgspec.json.encode(body)))
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
