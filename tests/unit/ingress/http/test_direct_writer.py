from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message

from serve_app.core.errors import EngineLost, ServeAppError
from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.core.interfaces import Sink
from serve_app.ingress.http.client_watch import ClientWatch
from serve_app.ingress.http.direct_writer import DirectWriter


class SinkingStream:
    """Hands events to its reader's sink while one waits, as the router's streams do."""

    def __init__(self) -> None:
        self.queue_position: int | None = None
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[Sequence[StreamEvent] | None] | None = None

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        self._sink = sink
        self._waiter = asyncio.get_running_loop().create_future()
        return await self._waiter

    async def aclose(self) -> None:
        pass

    def come(self, text: str) -> None:
        events = [TokenDelta(0, 0, 1, text, [1])]
        if self._sink is None:
            self.wake(events)
        elif not self._sink(events):
            self.wake(())

    def wake(self, events: Sequence[StreamEvent] | None) -> None:
        assert self._waiter is not None
        self._waiter.set_result(events)

    def fail(self, error: ServeAppError) -> None:
        assert self._waiter is not None
        self._waiter.set_exception(error)


class Client:
    """A client that reads, or not."""

    def __init__(self) -> None:
        self.got = b""
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.got += message["body"]

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError


def text_of(events: Sequence[StreamEvent]) -> bytes:
    return "".join(event.text for event in events if isinstance(event, TokenDelta)).encode()


@pytest.fixture
def stream() -> SinkingStream:
    return SinkingStream()


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def direct(stream: SinkingStream, client: Client) -> DirectWriter:
    return DirectWriter(stream, text_of, ClientWatch(client.receive, client.send, 60.0))


async def begun(direct: DirectWriter) -> asyncio.Task[Sequence[StreamEvent] | None]:
    direct.begin()
    reading = asyncio.create_task(direct.next(15.0))
    await asyncio.sleep(0)
    return reading


async def test_nothing_is_written_before_the_headers(
    direct: DirectWriter, stream: SinkingStream, client: Client
) -> None:
    reading = asyncio.create_task(direct.next(15.0))
    await asyncio.sleep(0)
    stream.come("a")
    events = await reading
    assert events is not None
    assert (text_of(events), client.got) == (b"a", b"")


async def test_events_are_written_as_they_come(direct: DirectWriter, stream: SinkingStream, client: Client) -> None:
    reading = await begun(direct)
    for text in "abc":
        stream.come(text)
    assert client.got == b"abc"
    stream.wake(None)
    assert await reading is None


async def test_nothing_is_sent_for_events_that_show_nothing(
    direct: DirectWriter, stream: SinkingStream, client: Client
) -> None:
    client.reads.clear()
    reading = await begun(direct)
    stream.come("")
    assert not reading.done()
    reading.cancel()


async def test_a_client_that_does_not_read_holds_up_only_its_own_reader(
    direct: DirectWriter, stream: SinkingStream, client: Client
) -> None:
    client.reads.clear()
    reading = await begun(direct)
    stream.come("a")
    await asyncio.sleep(0)
    assert not reading.done()
    client.reads.set()
    for _ in range(5):
        await asyncio.sleep(0)
    stream.come("b")
    assert client.got == b"ab"
    stream.wake(None)
    assert await reading is None


async def test_what_was_begun_is_finished_before_an_error_is_raised(
    direct: DirectWriter, stream: SinkingStream, client: Client
) -> None:
    class FailsAfterwards(SinkingStream):
        async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
            assert sink is not None
            sink([TokenDelta(0, 0, 1, "a", [1])])
            raise EngineLost("gone")

    failing = DirectWriter(FailsAfterwards(), text_of, ClientWatch(client.receive, client.send, 60.0))
    client.reads.clear()
    failing.begin()
    asyncio.get_running_loop().call_later(0, client.reads.set)
    with pytest.raises(EngineLost):
        await failing.next(15.0)
    assert client.got == b"a"


async def test_a_failure_to_write_is_raised_by_next(stream: SinkingStream) -> None:
    async def send(message: Message) -> None:
        raise ConnectionError("closed")

    direct = DirectWriter(stream, text_of, ClientWatch(Client().receive, send, 60.0))
    reading = await begun(direct)
    stream.come("a")
    with pytest.raises(ConnectionError):
        await reading


async def test_a_cancelled_reader_leaves_nothing_behind(
    direct: DirectWriter, stream: SinkingStream, client: Client, recwarn: pytest.WarningsRecorder
) -> None:
    client.reads.clear()
    reading = await begun(direct)
    stream.come("a")
    reading.cancel()
    await asyncio.wait((reading,))
    assert reading.cancelled()
    assert client.got == b""
    assert not recwarn.list
