"""Hostile WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from functools import partial

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from benchmarks.hostile.bodies import MIB
from benchmarks.hostile.outcomes import Attack, Target

Play = Callable[[ClientConnection, Target], object]


async def _on_socket(path: str, play: Callable[[ClientConnection, Target], object], target: Target) -> str:
    try:
        async with connect(
            f"ws://127.0.0.1:{target.port}{path}", open_timeout=8, close_timeout=1, max_size=None, ping_interval=None
        ) as socket:
            result = play(socket, target)
            assert asyncio.iscoroutine(result)
            await result
            return "played"
    except InvalidStatus as error:
        return str(error.response.status_code)
    except ConnectionClosed as error:
        code = error.rcvd.code if error.rcvd else 1006
        return "500 (closed with 1011)" if code == 1011 else f"closed with {code}"
    except InvalidHandshake:
        return "no handshake"


def _request(target: Target, name: str, tokens: int, **more: object) -> str:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": target.model, "messages": messages, "max_tokens": tokens, "ignore_eos": True}
    return json.dumps({"type": "request", "id": name, "body": body, **more})


async def giant_message(socket: ClientConnection, target: Target) -> None:
    """7 MiB in one request."""
    messages = [{"role": "user", "content": "a"}] * 200_000
    await socket.send(json.dumps({"type": "request", "id": "a", "body": {"model": target.model, "messages": messages}}))
    await socket.recv()


async def too_large(socket: ClientConnection, _target: Target) -> None:
    """Beyond any bound."""
    await socket.send("x" * (24 * MIB))
    await socket.recv()


async def malformed(socket: ClientConnection, _target: Target) -> None:
    """Everything but a message."""
    for text in ("", "{", "[]", "[" * 50_000, '{"type":7}', '{"type":"request"}', '{"type":"' + "x" * 100_000 + '"}'):
        await socket.send(text)
        await socket.recv()
    await socket.send(b"\0" * 1000)
    await socket.recv()


async def key_of_other_script(socket: ClientConnection, _target: Target) -> None:
    """A key that no header can hold."""
    await socket.send(json.dumps({"type": "auth", "token": "\ud0a4" * random.choice([1, 100_000])}))
    await socket.send('{"type":"ping","id":"p"}')
    await socket.recv()


async def ping_flood(socket: ClientConnection, _target: Target) -> None:
    """Both kinds of ping, unanswered."""
    for number in range(500):
        await socket.send(f'{{"type":"ping","id":"{number}"}}')
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            for number in range(200):
                await socket.ping(f"{number:0100}")


async def many_requests(socket: ClientConnection, target: Target) -> None:
    """As many as go, then gone."""
    for number in range(100):
        await socket.send(_request(target, str(number), 500))
    await socket.recv()


async def same_id(socket: ClientConnection, target: Target) -> None:
    """One name for all."""
    for _ in range(5):
        await socket.send(_request(target, "a", 50, resume=True))
    for _ in range(20):
        await socket.recv()


async def unread(socket: ClientConnection, target: Target) -> None:
    """Long answers that nobody reads."""
    socket.transport.pause_reading()
    for number in range(4):
        await socket.send(_request(target, str(number), 2000))
    await asyncio.sleep(5)


async def request_and_leave(socket: ClientConnection, target: Target) -> None:
    """Gone without a word after the first token."""
    await socket.send(_request(target, "a", 2000, resume=True))
    for _ in range(3):
        await socket.recv()
    socket.transport.abort()


async def plain_giant(socket: ClientConnection, _target: Target) -> None:
    """The simple endpoint."""
    await socket.send(json.dumps({"prompt": "word " * 500_000}))
    await socket.recv()


def attacks() -> dict[str, Attack]:
    """All of them by name."""
    chat = (
        giant_message, too_large, malformed, key_of_other_script, ping_flood, many_requests, same_id, unread,
        request_and_leave,
    )  # fmt: skip
    plain = (plain_giant, malformed)
    return {
        **{f"socket: {play.__name__.replace('_', ' ')}": partial(_on_socket, "/v1/ws/chat", play) for play in chat},
        **{f"plain socket: {play.__name__.replace('_', ' ')}": partial(_on_socket, "/ws/chat", play) for play in plain},
    }
