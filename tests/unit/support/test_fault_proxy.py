from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.fault_proxy import CutPoint, FaultProxy, after_bytes, after_nth, never
from tests.support.polling import eventually_async

FRAMES = b"".join(b"data: %d\n\n" % number for number in range(1, 6))


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@asynccontextmanager
async def answering(*plans: CutPoint, ends: bool = True) -> AsyncIterator[FaultProxy]:
    """A proxy before a server that answers each line with `FRAMES`, byte by byte, and then closes if it `ends`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for byte in FRAMES:
            writer.write(bytes([byte]))
            await writer.drain()
        if not ends:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", port_of(server), plans) as proxy:
        yield proxy


async def received(proxy: FaultProxy) -> tuple[bytes, bool]:
    """What a client gets, and whether the connection was reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"GET\n")
    got = b""
    try:
        while chunk := await reader.read(1000):
            got += chunk
    except ConnectionResetError:
        return got, True
    finally:
        writer.close()
    return got, False


async def test_without_a_plan_all_passes_and_the_end_is_an_end() -> None:
    async with answering(never) as proxy:
        assert await received(proxy) == (FRAMES, False)
        assert (proxy.connections, proxy.cuts, proxy.bytes_to_clients) == (1, 0, len(FRAMES))


@pytest.mark.parametrize("count", [1, 2, 17, len(FRAMES)])
async def test_a_connection_is_reset_after_exactly_so_many_bytes(count: int) -> None:
    async with answering(after_bytes(count)) as proxy:
        assert await received(proxy) == (FRAMES[:count], True)
        assert proxy.cuts == 1


@pytest.mark.parametrize("further", [0, 3])
async def test_a_connection_is_reset_after_exactly_so_many_frames(further: int) -> None:
    async with answering(after_nth(b"\n\n", 2, further)) as proxy:
        assert await received(proxy) == (b"data: 1\n\ndata: 2\n\n" + b"dat"[:further], True)


async def test_each_connection_follows_its_own_plan_and_later_ones_the_last() -> None:
    async with answering(after_bytes(1), after_bytes(2), never) as proxy:
        results = [await received(proxy) for _ in range(4)]
    assert [len(got) for got, _ in results] == [1, 2, len(FRAMES), len(FRAMES)]
    assert [reset for _, reset in results] == [True, True, False, False]


async def test_every_open_connection_can_be_cut_at_any_moment() -> None:
    async with answering(never, ends=False) as proxy:

        async def all_sent() -> bool:
            return proxy.bytes_to_clients == 3 * len(FRAMES)

        clients = [asyncio.create_task(received(proxy)) for _ in range(3)]
        await eventually_async(all_sent, 5.0, "all bytes are with the clients")
        assert proxy.cut_now() == 3
        assert await asyncio.gather(*clients) == [(FRAMES, True)] * 3
        assert proxy.cuts == 3


async def test_a_client_that_leaves_takes_its_connection_to_the_server_along() -> None:
    left = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_server(wait_for_the_end, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", port_of(server)) as proxy:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.close()
        await asyncio.wait_for(left.wait(), 5)


async def test_a_server_that_is_gone_is_a_reset_for_the_client() -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        port = port_of(server)
    async with FaultProxy("127.0.0.1", port) as proxy:
        got, _ = await received(proxy)
    assert got == b""
