"""A server that gives one answer in our resumable event stream, and treats each connection as a test asks.

It is strict: a wrong or missing header of the protocol is an error, so that a client cannot pass by accident.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Pause:
    """Nothing comes for `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Break:
    """The connection is reset."""


Piece = bytes | Pause | Break


@dataclass(frozen=True)
class Whole:
    """The rest of the answer."""

    upto: int | None = None
    """Tokens of the whole answer to give at most; None: to its end."""
    then: Sequence[Piece] = ()
    """What follows instead of the end when `upto` is given."""
    before: Sequence[Piece] = ()
    """What comes after the headers and before the first token."""


@dataclass(frozen=True)
class Refuse:
    """An error status."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = "queue_full"


@dataclass(frozen=True)
class NoAnswer:
    """The request is taken, and the connection breaks after `after_s` without an answer."""

    after_s: float = 0.0


Treatment = Whole | Refuse | NoAnswer


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    pieces: Sequence[Piece]


@dataclass
class ResumableServer:
    """Each POST gets the next of `treatments`, the last one again when they run out."""

    tokens: Sequence[str] = tuple(f"word{index} " for index in range(10))
    treatments: list[Treatment] = field(default_factory=lambda: [Whole()])
    resumable: bool = True
    models: Sequence[str] = ("first-model", "second-model")
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of each POST."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    computed: int = 0
    """Generations begun: a POST that re-attaches is none."""
    cancelled: list[str] = field(default_factory=list)
    _streams: dict[str, str] = field(default_factory=dict)
    """Idempotency key by stream id."""

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def forget(self) -> None:
        """Lose all streams, as when they are too old."""
        self._streams.clear()

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Answer one request; names in `headers` are lower case."""
        if (method, path) == ("GET", "/v1/models"):
            cards = [{"id": model, "object": "model"} for model in self.models]
            return _json(200, {"object": "list", "data": cards})
        if method == "DELETE" and path == "/v1/streams":
            named = [stream_id for stream_id, key in self._streams.items() if key == headers["idempotency-key"]]
            self.cancelled += named
            return _json(200, {}) if named else _error(404, "stream_not_found")
        if method == "DELETE" and path.startswith("/v1/streams/"):
            self.cancelled.append(path.removeprefix("/v1/streams/"))
            return _json(200, {})
        if (method, path) != ("POST", "/v1/chat/completions"):
            return _error(404, "unknown_url")
        document = json.loads(body)
        assert document["stream"] is True
        self.requests.append(headers)
        self.bodies.append(document)
        treatment = self.treatments.pop(0) if len(self.treatments) > 1 else self.treatments[0]
        if isinstance(treatment, Refuse):
            return _error(treatment.status, treatment.code, treatment.headers)
        stream_id, position = self._find(headers)
        if stream_id is None:
            return _error(404, "stream_not_found")
        if isinstance(treatment, NoAnswer):
            return Reply(0, {}, [Pause(treatment.after_s), Break()])
        reply_headers = {"content-type": "text/event-stream"} | ({"x-stream-id": stream_id} if self.resumable else {})
        return Reply(200, reply_headers, list(self._frames(stream_id, position, treatment, document["model"])))

    def _find(self, headers: dict[str, str]) -> tuple[str | None, int]:
        if not self.resumable:
            self.computed += 1
            return "", 0
        assert headers["x-stream-resume"] == "true"
        assert headers["prefer"] == "wait=1"
        key = headers["idempotency-key"]
        known_before = key in self._streams.values()
        assert not (known_before and headers["x-retry-count"] == "0"), "the server need not look for a first try"
        if not self._streams and len(self.requests) == 1:
            assert headers["x-retry-count"] == "0"
        if (last_id := headers.get("last-event-id")) is not None:
            stream_id, _, position = last_id.rpartition(".")
            return (stream_id, int(position)) if stream_id in self._streams else (None, 0)
        for stream_id, known in self._streams.items():
            if known == key:
                return stream_id, 0
        self.computed += 1
        stream_id = f"stream-{self.computed}"
        self._streams[stream_id] = key
        return stream_id, 0

    def _frames(self, stream_id: str, position: int, treatment: Whole, model: str) -> Iterator[Piece]:
        yield from treatment.before
        upto = len(self.tokens) if treatment.upto is None else treatment.upto
        if position == 0:
            yield self._frame(stream_id, 0, model, {"role": "assistant", "content": ""})
        for index in range(position, min(upto, len(self.tokens))):
            yield self._frame(stream_id, index + 1, model, {"content": self.tokens[index]})
        if treatment.upto is not None:
            yield from treatment.then
            return
        yield self._frame(stream_id, len(self.tokens), model, {}, "stop")
        usage = {"prompt_tokens": 7, "completion_tokens": len(self.tokens), "total_tokens": 7 + len(self.tokens)}
        yield b"data: " + json.dumps({"model": model, "choices": [], "usage": usage}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _frame(
        self, stream_id: str, position: int, model: str, delta: dict[str, str], finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        data = json.dumps({"model": model, "choices": [choice]}, ensure_ascii=False)
        name = f"id: {stream_id}.{position}\n" if self.resumable else ""
        return f"{name}data: {data}\n\n".encode()


def error_event(code: str, retry_ms: int | None = None, kind: str = "server_error") -> bytes:
    """The last event of a stream that failed."""
    retry = "" if retry_ms is None else f"retry: {retry_ms}\n"
    document = {"error": {"message": "It failed.", "type": kind, "param": None, "code": code}}
    return f"event: error\n{retry}data: {json.dumps(document)}\n\n".encode()


def _json(status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, {"content-type": "application/json", **(headers or {})}, [json.dumps(document).encode()])


def _error(status: int, code: str | None, headers: dict[str, str] | None = None) -> Reply:
    if code is None:
        return Reply(status, {"content-type": "text/html", **(headers or {})}, [b"<html>from a proxy</html>"])
    return _json(status, {"error": {"message": "No.", "type": "x", "param": None, "code": code}}, headers)


class AsyncTransport(httpx.AsyncBaseTransport):
    """Takes an `httpx.AsyncClient` to the server without a network; pauses are the event loop's time."""

    def __init__(self, server: ResumableServer) -> None:
        self._server = server

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        reply = self._server.handle(request.method, request.url.path, dict(request.headers), body)
        if reply.status == 0:
            async for _ in _played(reply.pieces):
                pass
        return httpx.Response(reply.status, headers=reply.headers, stream=_AsyncBody(reply.pieces))


async def _played(pieces: Sequence[Piece]) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, Pause):
            await asyncio.sleep(piece.seconds)
        elif isinstance(piece, Break):
            raise httpx.ReadError("Connection reset by peer")
        else:
            yield piece


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in _played(self._pieces):
            yield piece


class FakeTime:
    """A clock that moves when somebody sleeps or a server is silent."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


class BlockingTransport(httpx.BaseTransport):
    """The same for `httpx.Client`: pauses move `time`, up to the request's read timeout, as httpx takes it."""

    def __init__(self, server: ResumableServer, time: FakeTime) -> None:
        self._server = server
        self._time = time

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = self._server.handle(request.method, request.url.path, dict(request.headers), request.read())
        if reply.status == 0:
            for _ in self.play(request, reply.pieces):
                pass
        return httpx.Response(reply.status, headers=reply.headers, stream=_BlockingBody(self, request, reply.pieces))

    def play(self, request: httpx.Request, pieces: Sequence[Piece]) -> Iterator[bytes]:
        limit_s = request.extensions["timeout"]["read"]
        for piece in pieces:
            if isinstance(piece, Pause):
                self._time.now_s += min(piece.seconds, limit_s)
                if piece.seconds >= limit_s:
                    raise httpx.ReadTimeout("timed out")
            elif isinstance(piece, Break):
                raise httpx.ReadError("Connection reset by peer")
            else:
                yield piece


class _BlockingBody(httpx.SyncByteStream):
    def __init__(self, transport: BlockingTransport, request: httpx.Request, pieces: Sequence[Piece]) -> None:
        self._transport = transport
        self._request = request
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self._transport.play(self._request, self._pieces)


@asynccontextmanager
async def listening(server: ResumableServer) -> AsyncIterator[str]:
    """Serve on a free loopback port; yields the URL. `Break` is a TCP reset."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            named = (line.split(":", 1) for line in head[1:] if line)
            headers = {name.strip().lower(): value.strip() for name, value in named}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            reply = server.handle(method, path, headers, body)
            if reply.status:
                lines = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
                head_line = (
                    f"HTTP/1.1 {reply.status} X\r\n{lines}connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                writer.write(head_line.encode())
            async for piece in _played(reply.pieces):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except httpx.ReadError:
            # What was written goes out before the reset only if the kernel has it already.
            await asyncio.sleep(0.01)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
