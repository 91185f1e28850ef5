"""WebSockets behind HAProxy, where the router itself holds the client's connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.chat_socket import ChatSocket, SocketAnswer
from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
CUT_WITHIN_S = 60.0
"""The operating system's socket buffers on the way hold several MiB before the router notices anything."""


def body(max_tokens: int, content: str = "Tell me something.", **further: Any) -> dict[str, Any]:
    """A request that always gets the same answer."""
    return chat("fast", max_tokens, content, temperature=0.0, seed=3, **further)


async def test_three_requests_share_a_socket_and_each_gets_its_own_answer(fast: ServedApp) -> None:
    requests = {name: body(30, f"Question {name}.") for name in "abc"}
    expected = {name: (await fast.stream(request)).text for name, request in requests.items()}
    async with ChatSocket(fast.url) as socket:
        for name, request in requests.items():
            await socket.ask(name, request)
        answers = await socket.read_all("abc")
    assert {name: answer.text for name, answer in answers.items()} == expected


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_leaving_without_resume_ends_every_generation_of_the_socket(fast: ServedApp, way: str) -> None:
    async with ChatSocket(fast.url) as socket:
        for name in "abc":
            await socket.ask(name, body(60_000))
        await fast.until_generating(3)
        if way == "reset":
            socket.reset()
        else:
            await socket.connection.close()
        await fast.until_idle(ABORTED_WITHIN_S)


async def test_a_client_that_does_not_read_is_cut_at_its_bound_and_slows_nobody_and_can_resume(fast: ServedApp) -> None:
    before = (await fast.scrape()).total("serve_app_requests_total", outcome="client_too_slow")
    async with ChatSocket(fast.url, receive_buffer_bytes=4096) as silent:
        for name in "abc":
            await silent.ask(name, body(60_000, logprobs=True, top_logprobs=20))
        await silent.ask("kept", body(60_000, logprobs=True, top_logprobs=20), resume=True)
        await fast.until_generating(4)

        async def answered() -> SocketAnswer:
            async with ChatSocket(fast.url) as socket:
                await socket.ask("a", body(50))
                return await socket.read()

        answers = await asyncio.gather(*(answered() for _ in range(10)))
        assert all(answer.last["type"] == "done" for answer in answers)

        async def cut() -> bool:
            page = await fast.scrape()
            return page.total("serve_app_requests_total", outcome="client_too_slow") == before + 3

        await eventually_async(cut, CUT_WITHIN_S, "the streams are cut")
        found = await silent.read_all([*"abc", "kept"])
        assert {answer.last["error"]["code"] for answer in found.values()} == {"client_too_slow"}
        kept = found["kept"]
        cut_at, text = kept.position, kept.text
        await silent.resume("kept", kept.stream_id, cut_at)
        await silent.read(kept, until_position=cut_at + 1)
        assert kept.position > cut_at
        assert kept.text.startswith(text)
        await silent.say({"type": "cancel", "id": "kept"})
        assert (await silent.read(kept)).last["type"] == "done"
        await fast.until_idle(ABORTED_WITHIN_S)
