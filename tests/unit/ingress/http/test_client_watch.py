from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import Message

from serve_app.ingress.http.client_watch import ClientWatch


class Connection:
    """An ASGI connection whose client can leave, or stop reading."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    def watch(self, stall_s: float = 60.0) -> ClientWatch:
        return ClientWatch(self.receive, self.send, stall_s)


async def test_the_work_stops_quietly_when_the_client_leaves() -> None:
    connection = Connection()
    async with connection.watch() as client:
        connection.left.set()
        await asyncio.Event().wait()
    assert client.gone
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_work_that_ends_first_is_not_disturbed() -> None:
    connection = Connection()
    async with connection.watch() as client:
        await client.send({"type": "x"})
    connection.left.set()
    await asyncio.sleep(0)
    assert not client.gone
    assert connection.sent == [{"type": "x"}]


async def test_a_cancellation_from_outside_goes_through() -> None:
    connection = Connection()

    async def answer() -> None:
        async with connection.watch():
            await asyncio.Event().wait()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_goes_through_even_when_the_client_leaves_at_the_same_time() -> None:
    connection = Connection()

    async def disconnect_while_the_host_cancels() -> Message:
        message = await connection.receive()
        task.cancel()
        return message

    async def answer() -> None:
        async with ClientWatch(disconnect_while_the_host_cancels, connection.send, 60.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    connection.left.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_goes_through() -> None:
    with pytest.raises(KeyError):
        async with Connection().watch():
            raise KeyError


async def test_a_broken_receiving_side_counts_as_a_client_that_left() -> None:
    connection = Connection()

    async def broken() -> Message:
        raise ConnectionError("proxy died")

    async with ClientWatch(broken, connection.send, 60.0) as client:
        await asyncio.Event().wait()
    assert client.gone


class Timers:
    """Replaces the loop's `call_later` by timers that the test fires."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.callbacks: list[Callable[[], None]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", self._call_later)

    def _call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.Handle:
        self.callbacks.append(callback)
        return asyncio.Handle(callback, (), asyncio.get_running_loop())

    def fire(self) -> None:
        self.callbacks.pop()()


async def test_a_write_that_makes_no_progress_for_a_whole_period_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    connection = Connection()
    connection.reads.clear()
    reached = []

    async def answer() -> None:
        async with connection.watch() as client:
            await client.send({"type": "x"})
            reached.append("after the write")

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    timers.fire()
    await asyncio.sleep(0)
    assert not task.done()
    timers.fire()
    await task
    assert reached == []
    assert connection.sent == []


async def test_writes_that_make_progress_between_checks_are_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    connection = Connection()
    async with connection.watch() as client:
        for _ in range(3):
            connection.reads.clear()
            write = asyncio.create_task(client.send({"type": "x"}))
            await asyncio.sleep(0)
            timers.fire()
            connection.reads.set()
            await write
    assert not client.gone
    assert len(connection.sent) == 3


async def test_what_the_server_takes_at_once_is_sent_without_waiting() -> None:
    connection = Connection()
    async with connection.watch() as client:
        assert client.send_now({"type": "x"}) is None
        assert connection.sent == [{"type": "x"}]


async def test_what_the_server_does_not_take_at_once_is_sent_by_awaiting_the_rest() -> None:
    connection = Connection()
    connection.reads.clear()
    async with connection.watch() as client:
        rest = client.send_now({"type": "x"})
        assert rest is not None
        asyncio.get_running_loop().call_soon(connection.reads.set)
        await rest
        assert connection.sent == [{"type": "x"}]
        assert client.send_now({"type": "y"}) is None


async def test_a_server_that_waits_several_times_sends_in_the_end() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        sent.append(message)

    async with ClientWatch(Connection().receive, send, 60.0) as client:
        rest = client.send_now({"type": "x"})
        assert rest is not None
        await rest
    assert sent == [{"type": "x"}]


async def test_a_failure_to_send_is_raised_to_whoever_awaits_it() -> None:
    async def send(message: Message) -> None:
        raise ConnectionError("closed")

    async with ClientWatch(Connection().receive, send, 60.0) as client:
        rest = client.send_now({"type": "x"})
        assert rest is not None
        with pytest.raises(ConnectionError):
            await rest


async def test_a_cancelled_wait_reaches_the_server() -> None:
    cancelled = asyncio.Event()

    async def send(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with ClientWatch(Connection().receive, send, 60.0) as client:
        rest = client.send_now({"type": "x"})
        assert rest is not None
        waiting = asyncio.create_task(rest)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
    assert cancelled.is_set()


async def test_a_write_that_was_begun_without_waiting_can_stall_too(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    connection = Connection()
    connection.reads.clear()

    async def answer() -> None:
        async with connection.watch() as client:
            rest = client.send_now({"type": "x"})
            assert rest is not None
            await rest

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    timers.fire()
    timers.fire()
    await task
    assert connection.sent == []
