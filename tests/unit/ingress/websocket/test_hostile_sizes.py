"""Long messages hold up nobody else, and are accounted until they are read."""

from __future__ import annotations

import pytest

from serve_app.ingress.bytes_under_way import SHORT_BYTES, BytesUnderWay
from serve_app.ingress.websocket.config import WebSocketConfig
from tests.support.fake_router import FakeRouter, speak
from tests.support.hostile_bodies import SHAPES
from tests.support.loop_hold import LoopHold
from tests.unit.ingress.hanging_script import HANGING
from tests.unit.ingress.websocket.client import PLAIN_SOCKET, SocketClient

_ENVELOPE = '{"type":"request","id":"a","body":%s}'
_LIMIT = WebSocketConfig().max_message_bytes - 1024
_LONGEST_HOLD_S = 0.05
_ATTEMPTS = 3


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "a text that is not UTF-8"])
async def test_no_message_holds_the_event_loop_for_long(shape: str) -> None:
    _, make = SHAPES[shape]
    text = _ENVELOPE % make(_LIMIT).decode()
    holds: list[float] = []
    for _ in range(_ATTEMPTS):
        async with SocketClient(FakeRouter([speak("a")])) as client, LoopHold() as hold:
            client.say(text)
            await client.hear_until("done", "error")
        holds.append(hold.longest_s)
        if hold.longest_s < _LONGEST_HOLD_S:
            return
    pytest.fail(f"the loop was held for {min(holds):.3f} s")


async def test_a_long_prompt_of_a_simple_client_does_not_either() -> None:
    async with SocketClient(FakeRouter([speak("a")]), PLAIN_SOCKET) as client, LoopHold() as hold:
        client.say('{"prompt":"%s"}' % ("[1,2]," * (_LIMIT // 6)))
        await client.hear()
    assert hold.longest_s < _LONGEST_HOLD_S


async def test_a_request_that_is_read_holds_nothing_whatever_its_answer_takes() -> None:
    account, router = BytesUnderWay(4 * SHORT_BYTES), FakeRouter([HANGING])
    async with SocketClient(router, account=account) as client:
        for number in range(8):
            client.ask(f"r{number}", {"user": "u" * 2 * SHORT_BYTES})
            await client.hear_until("token")
        assert account.held_bytes == 0
    assert len(router.streams) == 8


async def test_a_request_that_waits_for_its_turn_is_accounted_until_its_client_leaves() -> None:
    account, router = BytesUnderWay(4 * SHORT_BYTES), FakeRouter([HANGING])
    async with SocketClient(router, PLAIN_SOCKET, account=account) as client:
        client.say({"prompt": "first"})
        await client.hear()
        assert account.held_bytes == 0
        client.say({"prompt": "a" * 2 * SHORT_BYTES})
        client.say({"prompt": "b" * 2 * SHORT_BYTES})
        refused = await client.hear()
        assert refused["error"]["code"] == "router_busy"
        assert 2 * SHORT_BYTES < account.held_bytes < 3 * SHORT_BYTES
    assert account.held_bytes == 0


async def test_one_message_too_many_is_refused_by_its_id_and_the_socket_goes_on() -> None:
    account = BytesUnderWay(4 * SHORT_BYTES)
    async with SocketClient(FakeRouter([speak("a")]), account=account) as client:
        with account.claim() as claim:
            claim.hold(3 * SHORT_BYTES)
            client.ask("long", {"user": "u" * 2 * SHORT_BYTES})
            refused = await client.hear()
            assert (refused["type"], refused["id"], refused["error"]["code"]) == ("error", "long", "router_busy")
            client.ask("short")
            assert (await client.hear_until("done"))[-1]["id"] == "short"
        client.ask("long", {"user": "u" * 2 * SHORT_BYTES})
        assert (await client.hear_until("done"))[-1]["id"] == "long"
    assert account.held_bytes == 0
