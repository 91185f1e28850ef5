"""Reading a ZeroMQ socket by its edge-triggered file descriptor."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
import zmq

from serve_app.token_channel.sockets import Socket, SocketReader
from tests.unit.token_channel.recorder import until


@pytest.fixture
def pair() -> Iterator[tuple[Socket, Socket]]:
    """Two connected sockets."""
    context: zmq.Context[Socket] = zmq.Context()
    here, there = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    here.bind("inproc://pair")
    there.connect("inproc://pair")
    yield here, there
    context.destroy(linger=0)


async def test_messages_that_arrive_while_the_socket_sends_are_read(pair: tuple[Socket, Socket]) -> None:
    here, there = pair
    read: list[list[bytes]] = []
    reader = SocketReader(here, read.append)
    await asyncio.sleep(0)

    there.send(b"question")
    here.send(b"this takes in the news of the question")
    reader.catch_up()

    assert read == [[b"question"]]
    reader.close()


async def test_messages_that_were_there_before_are_read(pair: tuple[Socket, Socket]) -> None:
    here, there = pair
    there.send(b"early")
    here.getsockopt(zmq.EVENTS)
    read: list[list[bytes]] = []

    reader = SocketReader(here, read.append)
    await until(lambda: bool(read))

    assert read == [[b"early"]]
    reader.close()


async def test_a_flood_leaves_other_tasks_their_turns(pair: tuple[Socket, Socket]) -> None:
    here, there = pair
    read: list[list[bytes]] = []
    reader = SocketReader(here, read.append)
    for number in range(950):
        there.send(str(number).encode())

    turns = [len(read)]
    while len(read) < 950:
        await asyncio.sleep(0)
        turns.append(len(read))

    assert max(after - before for before, after in itertools.pairwise(turns)) <= 200
    assert read == [[str(number).encode()] for number in range(950)]
    reader.close()


async def test_read_all_takes_in_everything_at_once(pair: tuple[Socket, Socket]) -> None:
    here, there = pair
    read: list[list[bytes]] = []
    reader = SocketReader(here, read.append)
    for _ in range(500):
        there.send(b"x")

    reader.read_all()

    assert len(read) == 500
    reader.close()


async def test_nothing_is_read_after_close(pair: tuple[Socket, Socket]) -> None:
    here, there = pair
    read: list[list[bytes]] = []
    reader = SocketReader(here, read.append)
    there.send(b"late")

    reader.close()
    reader.close()
    reader.read_all()
    await asyncio.sleep(0)

    assert read == []
