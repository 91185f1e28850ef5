"""A TCP proxy that cuts connections where a test wants it: with a reset, after what the client was sent so far."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from types import TracebackType

CutPoint = Callable[[bytes], int | None]
"""Given all bytes that the server has sent on a connection, where to cut it: after so many of them, or None: not yet.
Called each time that more has come, with more at the end."""

_CHUNK_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` with no time to linger: closing resets the connection, and what the client has not read is gone."""


def never(seen: bytes) -> int | None:
    """Let the connection be."""
    del seen
    return None


def after_bytes(count: int) -> CutPoint:
    """Cut after `count` bytes."""
    return lambda seen: count if len(seen) >= count else None


def after_nth(mark: bytes, count: int, and_bytes: int = 0) -> CutPoint:
    """Cut `and_bytes` after the `count`-th occurrence of `mark`: after so many frames, say."""

    def cut(seen: bytes) -> int | None:
        end = 0
        for _ in range(count):
            found = seen.find(mark, end)
            if found < 0:
                return None
            end = found + len(mark)
        end += and_bytes
        return end if len(seen) >= end else None

    return cut


class FaultProxy:
    """Passes connections on to `host:port`, and cuts each by its own plan. `async with`, on one event loop.

    The n-th connection follows the n-th of `plans`, all later ones the last. A cut resets the client's side once it
    has been given its bytes; the server's side is reset as well. `cut_now` cuts at any moment.
    """

    def __init__(self, host: str, port: int, plans: Sequence[CutPoint] = (never,)) -> None:
        self.plans = list(plans)
        self.connections = 0
        """Accepted so far."""
        self.cuts = 0
        """Connections that were cut, by plan or at once."""
        self.bytes_to_clients = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut_now(self) -> int:
        """Cut every open connection; returns how many."""
        open_now = list(self._open)
        for connection in open_now:
            connection.reset()
        return len(open_now)

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [connection.task for connection in self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plan = self.plans[min(self.connections, len(self.plans) - 1)]
        self.connections += 1
        connection = _Connection(self, reader, writer)
        connection.task = asyncio.create_task(connection.run(self._target, plan))
        self._open.add(connection)
        # A handler that is cancelled itself makes asyncio log an error.
        await asyncio.wait([connection.task])
        self._open.discard(connection)


class _Connection:
    def __init__(
        self,
        proxy: FaultProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.task: asyncio.Task[None]
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._upstream: asyncio.StreamWriter | None = None

    async def run(self, target: tuple[str, int], plan: CutPoint) -> None:
        """Pass on both ways until one side ends, or `plan` says to cut."""
        # Then `drain` returns when all is with the kernel, and a cut comes after it.
        self._writer.transport.set_write_buffer_limits(high=0)
        try:
            from_server, self._upstream = await asyncio.open_connection(*target)
        except OSError:
            self._writer.transport.abort()
            return
        requests = asyncio.ensure_future(_pass_on(self._reader, self._upstream))
        try:
            with contextlib.suppress(ConnectionError):
                await self._answers(from_server, plan)
        finally:
            requests.cancel()
            await asyncio.gather(requests, return_exceptions=True)
            for writer in (self._upstream, self._writer):
                writer.close()

    async def _answers(self, from_server: asyncio.StreamReader, plan: CutPoint) -> None:
        seen = bytearray()
        while chunk := await from_server.read(_CHUNK_BYTES):
            sent = len(seen)
            if plan is not never:
                seen += chunk
            end = plan(bytes(seen))
            if end is not None:
                chunk = chunk[: max(0, end - sent)]
            self._proxy.bytes_to_clients += len(chunk)
            self._writer.write(chunk)
            await self._writer.drain()
            if end is not None:
                self.reset()
                return

    def reset(self) -> None:
        """Cut it: a reset for both sides."""
        if self._writer.is_closing():
            return
        self._proxy.cuts += 1
        for writer in (self._writer, self._upstream):
            if writer is not None:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.close()
