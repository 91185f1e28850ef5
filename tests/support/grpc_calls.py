"""Calls of the gRPC services without a server: contexts, and requests that come when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.status import Trailer


class FakeContext:
    """What Serve hands to a deployment's method; `metadata` came from the client."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailers: dict[str, str | bytes] = {}

    def invocation_metadata(self) -> Sequence[Trailer]:
        return self._metadata

    def trailing_metadata(self) -> Sequence[Trailer]:
        return [("request_id", "serve-id")]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[Trailer]) -> None:
        self.trailers = dict(trailing_metadata)


class FakeRequests(AsyncIterator[ChatRequest]):
    """The requests of a bidirectional call, as Serve's `gRPCInputStream` gives them."""

    def __init__(self, *requests: ChatRequest, ended: bool = True) -> None:
        self._queue: asyncio.Queue[ChatRequest | Exception | None] = asyncio.Queue()
        self._cancelled = False
        for request in requests:
            self.send(request)
        if ended:
            self.end()

    def send(self, request: ChatRequest) -> None:
        self._queue.put_nowait(request)

    def end(self, *, cancelled: bool = False, error: Exception | None = None) -> None:
        """Half-close; `cancelled`: the client cancelled the call; `error`: reading it fails."""
        self._cancelled = cancelled
        self._queue.put_nowait(error)

    def is_cancelled(self) -> bool:
        return self._cancelled

    async def __anext__(self) -> ChatRequest:
        request = await self._queue.get()
        if isinstance(request, Exception):
            raise request
        if request is None:
            raise StopAsyncIteration
        return request


class ErrorDetails:
    """What `grpc-status-details-bin` says."""

    def __init__(self, serialized: str | bytes) -> None:
        assert isinstance(serialized, bytes)
        self.status = Status.FromString(serialized)
        self.info, self.retry, self.bad_request = ErrorInfo(), RetryInfo(), BadRequest()
        for detail in self.status.details:
            unpacked = [detail.Unpack(kind) for kind in (self.info, self.retry, self.bad_request)]
            assert any(unpacked), detail.type_url
