from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from serve_app.core.errors import EngineLost
from serve_app.core.events import Accepted, TokenDelta
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.websocket.config import WebSocketConfig
from tests.support.fake_router import FakeRouter, Hang, Script
from tests.support.virtual_loop import run_virtual
from tests.unit.ingress.websocket.client import CHAT_SOCKET, PLAIN_SOCKET, SocketClient

BEGINS: Script = [[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]
CONFIG = IngressConfig(write_stall_s=60.0, websocket=WebSocketConfig(idle_timeout_s=300.0))


def now() -> float:
    return asyncio.get_running_loop().time()


def after_s(test: Callable[[], Awaitable[None]]) -> float:
    """Virtual seconds that `test` takes."""

    async def timed() -> float:
        await test()
        return now()

    return run_virtual(timed())


def test_an_idle_socket_is_closed_after_its_time() -> None:
    async def idle() -> None:
        client = SocketClient(FakeRouter([BEGINS]), config=CONFIG)
        await asyncio.wait([client.task])
        assert client.closed == {"type": "websocket.close", "code": 1000, "reason": "idle"}

    assert 300.0 <= after_s(idle) <= 360.0


def test_messages_and_open_requests_keep_a_socket() -> None:
    async def busy() -> None:
        client = SocketClient(FakeRouter([BEGINS]), config=CONFIG)
        await asyncio.sleep(290.0)
        client.say({"type": "ping"})
        await asyncio.sleep(290.0)
        client.ask("a")
        await asyncio.sleep(10_000.0)
        client.say({"type": "cancel", "id": "a"})
        await asyncio.sleep(290.0)
        assert client.closed is None
        await asyncio.wait([client.task])
        assert client.closed is not None

    after_s(busy)


def test_a_socket_begins_to_be_idle_when_its_last_request_ends() -> None:
    async def ends_late() -> None:
        router = FakeRouter([BEGINS])
        client = SocketClient(router, config=CONFIG)
        client.ask("a")
        await asyncio.sleep(10_000.0)
        router.streams[0].fail(EngineLost("lost"))
        await asyncio.sleep(240.0)
        assert client.closed is None
        await asyncio.wait([client.task])
        assert client.closed is not None

    after_s(ends_late)


def test_one_message_is_under_way_at_a_time_and_the_messages_of_a_batch_stay_together() -> None:
    router = FakeRouter([[[Accepted(1, [1]), TokenDelta(0, 0, 1, name, [1])], Hang()] for name in "abc"])

    async def three() -> None:
        client = SocketClient(router, config=CONFIG)
        client.say({"type": "ping"})
        await client.hear()
        client.reads.clear()
        for name in "abc":
            client.ask(name)
        await asyncio.sleep(1.0)
        assert client.under_way == 1
        client.reads.set()
        heard = [await client.hear() for _ in range(6)]
        assert [message["type"] for message in heard] == ["accepted", "token"] * 3
        client.leave()
        await asyncio.wait([client.task])

    after_s(three)


def test_a_client_that_reads_nothing_is_cut_without_waiting_for_it() -> None:
    router = FakeRouter([BEGINS])

    async def unread() -> None:
        client = SocketClient(router, config=CONFIG)
        client.ask("a")
        await client.hear()
        client.reads.clear()
        client.ask("b")
        await asyncio.wait([client.task])
        assert client.closed is None
        assert all(stream.closed for stream in router.streams)

    assert 60.0 <= after_s(unread) <= 120.0


def test_a_slow_client_that_reads_is_not_cut() -> None:
    async def slow() -> None:
        router = FakeRouter([[[Accepted(1, [1])], *[[TokenDelta(0, i, 1, "a", [1])] for i in range(20)], Hang()]])
        client = SocketClient(router, config=CONFIG)
        client.ask("a")
        await client.hear()
        for _ in range(20):
            client.reads.clear()
            await asyncio.sleep(59.0)
            client.reads.set()
            await asyncio.sleep(0.0)
        assert not client.task.done()
        client.leave()
        await asyncio.wait([client.task])

    after_s(slow)


def test_one_client_that_does_not_read_holds_up_no_other() -> None:
    async def two() -> None:
        router = FakeRouter([BEGINS])
        silent, reading = SocketClient(router, config=CONFIG), SocketClient(router, config=CONFIG)
        silent.say({"type": "ping"})
        await silent.hear()
        silent.reads.clear()
        silent.ask("a")
        reading.ask("a")
        await reading.hear_until("token")
        assert now() == 0.0
        reading.leave()
        await asyncio.wait([reading.task, silent.task])

    after_s(two)


def test_a_connection_that_breaks_while_sending_closes_its_streams_and_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    router = FakeRouter([[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], Hang()]])

    async def broken() -> None:
        client = SocketClient(router, config=CONFIG)
        client.ask("a")
        await client.hear()
        client.breaks = True
        await asyncio.sleep(1.0)
        assert router.streams[0].closed
        assert not client.task.done(), "the server tells the end to whoever receives"
        client.leave()
        await asyncio.wait([client.task])
        assert client.task.exception() is None

    after_s(broken)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_receiving_side_that_fails_is_a_client_that_left() -> None:
    router = FakeRouter([BEGINS])

    async def broken() -> None:
        client = SocketClient(router, config=CONFIG)
        client.ask("a")
        await client.hear_until("token")
        client.fail()
        await asyncio.wait([client.task])
        assert client.task.exception() is None
        assert router.streams[0].closed

    after_s(broken)


# --- the replica is about to be stopped


async def test_a_socket_without_requests_closes_when_its_replica_leaves(hanging: FakeRouter) -> None:
    hanging.departure.observe(listed=True)
    async with SocketClient(hanging) as client:
        client.say({"type": "ping"})
        await client.hear()
        hanging.departure.observe(listed=False)
        await client.ended()
    assert client.closed is not None
    assert client.closed["code"] == 1012


@pytest.mark.parametrize("path", [CHAT_SOCKET, PLAIN_SOCKET])
async def test_open_requests_are_answered_first_and_new_ones_refused(hanging: FakeRouter, path: str) -> None:
    hanging.departure.observe(listed=True)

    def ask(name: str) -> None:
        if path == CHAT_SOCKET:
            client.ask(name)
        else:
            client.say({"prompt": "hi", "id": name})

    async with SocketClient(hanging, path) as client:
        ask("a")
        await client.hear_until("token")
        hanging.departure.observe(listed=False)
        ask("b")
        refused = (await client.hear_until("error"))[-1]
        assert (refused["id"], refused["error"]["code"], refused["retryable"]) == ("b", "replica_leaving", True)
        assert client.closed is None
        hanging.streams[0].go_on()
        assert (await client.hear_until("done", "error"))[-1]["id"] == "a"
        await client.ended()
    assert client.closed is not None
    assert client.closed["code"] == 1012
    assert len(hanging.streams) == 1


async def test_a_new_socket_of_a_leaving_replica_is_sent_elsewhere(hanging: FakeRouter) -> None:
    for listed in (True, False):
        hanging.departure.observe(listed)
    async with SocketClient(hanging) as client:
        await client.ended()
    assert client.closed is not None
    assert client.closed["code"] == 1012
