"""A client of the WebSocket endpoints, for tests over real sockets."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

Message = dict[str, Any]


@dataclass(slots=True)
class SocketAnswer:
    """What came for one request, as far as it was read."""

    text: str = ""
    position: int = 0
    messages: list[Message] = field(default_factory=list)

    def take(self, message: Message) -> bool:
        """Add a message; whether it is the last one."""
        self.messages.append(message)
        if message["type"] == "token":
            self.text += message["content"]
            self.position = message["position"]
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether the last message came."""
        return bool(self.messages) and self.messages[-1]["type"] in ("done", "error")

    @property
    def last(self) -> Message:
        """The message that came last."""
        return self.messages[-1]

    @property
    def stream_id(self) -> str:
        """Under what the answer can be resumed."""
        return next(str(message["stream_id"]) for message in self.messages if "stream_id" in message)


class ChatSocket:
    """One connection to `/v1/ws/chat`. Use `async with`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        path: str = "/v1/ws/chat",
        subprotocols: Sequence[str] | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        """`url` is the application's, `http://…`. With a small receive buffer what is not read waits at the server."""
        self._url = url.replace("http://", "ws://", 1) + path
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._subprotocols = subprotocols
        self._receive_buffer_bytes = receive_buffer_bytes
        self._connection: ClientConnection | None = None

    @property
    def connection(self) -> ClientConnection:
        """The open connection."""
        assert self._connection is not None
        return self._connection

    async def __aenter__(self) -> ChatSocket:
        options: dict[str, Any] = {}
        if self._receive_buffer_bytes is not None:
            options = {"sock": self._socket(self._receive_buffer_bytes), "max_queue": 1}
        self._connection = await connect(
            self._url,
            additional_headers=self._headers,
            subprotocols=self._subprotocols,  # type: ignore[arg-type]  # plain strings will do
            compression=None,
            proxy=None,
            max_size=None,
            close_timeout=1.0,
            **options,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def ask(self, client_id: str, body: Message, **fields: Any) -> None:
        """Send a request."""
        await self.say({"type": "request", "id": client_id, "body": body, **fields})

    async def resume(self, client_id: str, stream_id: str, position: int) -> None:
        """Ask for the rest of a stream."""
        await self.say({"type": "resume", "id": client_id, "stream_id": stream_id, "position": position})

    async def say(self, message: Message | str) -> None:
        """Send a message: an object as JSON, text as it is."""
        await self.connection.send(message if isinstance(message, str) else json.dumps(message))

    async def hear(self) -> Message:
        """The next message."""
        message: Message = json.loads(await self.connection.recv())
        return message

    async def read(self, answer: SocketAnswer | None = None, until_position: int | None = None) -> SocketAnswer:
        """Read a single request's messages up to its last, or to the first at `until_position` tokens."""
        answer = SocketAnswer() if answer is None else answer
        while not answer.take(await self.hear()):
            if until_position is not None and answer.position >= until_position:
                break
        return answer

    async def read_all(self, client_ids: Sequence[str]) -> dict[str, SocketAnswer]:
        """Read the messages of several requests, each up to its last."""
        answers = {client_id: SocketAnswer() for client_id in client_ids}
        unfinished = set(client_ids)
        while unfinished:
            message = await self.hear()
            if answers[message["id"]].take(message):
                unfinished.discard(message["id"])
        return answers

    def reset(self) -> None:
        """Cut the connection by a TCP reset, as a broken network does."""
        transport = self.connection.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def _socket(self, receive_buffer_bytes: int) -> socket.socket:
        host, _, port = self._url.split("/")[2].partition(":")
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        made.connect((host, int(port)))
        made.setblocking(False)
        return made
