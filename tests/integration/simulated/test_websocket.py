"""WebSockets through Serve's own proxy: multiplexing, errors, disconnects and resuming."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.support.chat_socket import ChatSocket, Message, SocketAnswer
from tests.support.served_app import API_KEY, ServedApp, chat
from tests.support.sse_client import StreamedAnswer

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
TOKENS = 100
AT_ONCE = 25
"""Streams cut at the same time: Serve's own proxy takes a millisecond of a core for each token."""


def body(max_tokens: int, content: str = "Tell me something.", **further: Any) -> dict[str, Any]:
    """A request that always gets the same answer."""
    return chat("beta", max_tokens, content, temperature=0.0, seed=3, **further)


async def whole_text(app: ServedApp, request: dict[str, Any]) -> str:
    """The answer as HTTP gives it."""
    answer: StreamedAnswer = await app.stream(request)
    assert answer.complete
    return answer.text


async def test_three_requests_share_a_socket_and_each_gets_its_own_answer(pair: ServedApp) -> None:
    requests = {name: body(30, f"Question {name}.") for name in "abc"}
    expected = {name: await whole_text(pair, request) for name, request in requests.items()}
    async with ChatSocket(pair.url, api_key=API_KEY) as socket:
        for name, request in requests.items():
            await socket.ask(name, request)
        answers = await socket.read_all("abc")
    assert {name: answer.text for name, answer in answers.items()} == expected
    for answer in answers.values():
        assert answer.messages[0]["type"] == "accepted"
        assert answer.last["finish_reason"] == "length"
        assert answer.last["usage"]["completion_tokens"] == answer.position == 30
    assert len({answer.text for answer in answers.values()}) == 3


async def test_the_documents_socket_speaks_their_words(pair: ServedApp) -> None:
    async with ChatSocket(pair.url, path="/ws/chat") as socket:
        await socket.say({"prompt": "hello", "max_tokens": 20})
        heard = [await socket.hear()]
        while heard[-1] != {"type": "done"}:
            heard.append(await socket.hear())
    assert all(set(message) == {"type", "content"} for message in heard[:-1])
    assert len(heard) > 10


async def test_cancel_ends_one_generation_and_leaves_the_others(pair: ServedApp) -> None:
    async with ChatSocket(pair.url, api_key=API_KEY) as socket:
        await socket.ask("long", body(60_000))
        await pair.until_generating(1)
        await socket.ask("short", body(50))
        await socket.say({"type": "cancel", "id": "long"})
        answers = await socket.read_all(["long", "short"])
        assert answers["long"].last["finish_reason"] == "cancelled"
        assert answers["short"].last["finish_reason"] == "length"
        await pair.until_idle(ABORTED_WITHIN_S)


async def test_errors_name_the_field_and_leave_the_socket_open(pair: ServedApp) -> None:
    async with ChatSocket(pair.url) as socket:
        await socket.say("{")
        assert (await socket.hear())["error"]["code"] == "invalid_json"
        await socket.say({"type": "request", "id": "a"})
        assert (await socket.hear())["error"]["param"] == "body"
        await socket.ask("a", {**body(5), "model": "gamma"})
        assert (await socket.hear())["error"]["code"] == "model_not_found"
        await socket.ask("a", body(70_000))
        assert (await socket.hear())["error"]["code"] == "context_length_exceeded"
        await socket.ask("a", body(5))
        assert (await socket.read()).last["type"] == "done"
        await socket.say({"type": "ping"})
        assert await socket.hear() == {"type": "pong"}


async def test_malformed_messages_in_a_row_close_the_socket(pair: ServedApp) -> None:
    async with ChatSocket(pair.url) as socket:
        for _ in range(10):
            await socket.say("{")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                assert (await socket.hear())["type"] == "error"
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_the_token_of_a_browser_is_taken_and_answered(pair: ServedApp) -> None:
    async with ChatSocket(pair.url, subprotocols=["serve-app.v1", "bearer.key"]) as socket:
        assert socket.connection.subprotocol == "serve-app.v1"
        await socket.ask("a", body(5))
        assert (await socket.read()).last["type"] == "done"


async def test_refusals_say_when_to_come_back_and_waiting_shows_the_place(narrow: ServedApp) -> None:
    async with ChatSocket(narrow.url) as socket:
        for name in "abcde":
            await socket.ask(name, chat("narrow", 200))
        heard: list[Message] = []
        while not heard or heard[-1]["type"] != "queued":
            heard.append(await socket.hear())
        refused = next(message for message in heard if message["type"] == "error")
        assert refused["error"]["code"] == "queue_full"
        assert refused["retry_after_ms"] >= 1000
        assert heard[-1]["position"] in (0, 1)
    await narrow.until_idle(ABORTED_WITHIN_S)


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_leaving_without_resume_ends_every_generation_of_the_socket(pair: ServedApp, way: str) -> None:
    async with ChatSocket(pair.url, api_key=API_KEY) as socket:
        for name in "abc":
            await socket.ask(name, body(60_000))
        await pair.until_generating(3)
        if way == "reset":
            socket.reset()
        else:
            await socket.connection.close()
        await pair.until_idle(ABORTED_WITHIN_S)


async def test_a_client_that_does_not_read_slows_nobody(pair: ServedApp) -> None:
    async with ChatSocket(pair.url, receive_buffer_bytes=4096) as silent:
        for name in "abcd":
            await silent.ask(name, body(60_000, logprobs=True, top_logprobs=5))
        await pair.until_generating(4)

        async def answered() -> SocketAnswer:
            async with ChatSocket(pair.url, api_key=API_KEY) as socket:
                await socket.ask("a", body(100))
                return await socket.read()

        answers = await asyncio.gather(*(answered() for _ in range(10)))
        assert all(answer.last["type"] == "done" for answer in answers)
        assert await pair.generations() >= 4, "the silent client's generations ran all the while"
        silent.reset()
    await pair.until_idle(5.0)


async def test_an_answer_cut_after_any_token_is_resumed_to_the_same_text(failover: ServedApp) -> None:
    request = chat("steady", TOKENS, temperature=0.0, seed=3)
    expected = await whole_text(failover, request)

    async def cut_and_resumed(position: int) -> tuple[int, str]:
        async with ChatSocket(failover.url, api_key=API_KEY) as socket:
            await socket.ask("a", request, resume=True)
            answer = await socket.read(until_position=position)
            socket.reset()
        cut_at = answer.position
        async with ChatSocket(failover.url, api_key=API_KEY) as socket:
            await socket.resume("b", answer.stream_id, cut_at)
            await socket.read(answer)
        assert answer.last.get("finish_reason") == "length", answer.last
        assert answer.last["usage"]["completion_tokens"] == TOKENS
        return cut_at, answer.text

    cuts = []
    for first in range(0, TOKENS, AT_ONCE):
        cuts += await asyncio.gather(*(cut_and_resumed(position) for position in range(first, first + AT_ONCE)))
    assert [text for _, text in cuts] == [expected] * TOKENS
    assert len({cut_at for cut_at, _ in cuts}) >= 0.9 * TOKENS, "now and then two tokens come together"
    await failover.until_idle(5.0)


async def test_leaving_a_resumable_answer_leaves_it_running_until_somebody_cancels_it(failover: ServedApp) -> None:
    async with ChatSocket(failover.url, api_key=API_KEY) as socket:
        await socket.ask("a", chat("steady", 4000), resume=True)
        answer = await socket.read(until_position=3)
        socket.reset()
    async with ChatSocket(failover.url) as stranger:
        await stranger.resume("a", answer.stream_id, 0)
        assert (await stranger.hear())["error"]["code"] == "stream_not_found"
    async with ChatSocket(failover.url, api_key=API_KEY) as socket:
        await socket.resume(answer.stream_id, answer.stream_id, 3)
        await socket.read(answer, until_position=20)
        assert answer.position >= 20
        await socket.say({"type": "cancel", "id": answer.stream_id})
        assert (await socket.read(answer)).last["finish_reason"] == "cancelled"
    await failover.until_idle(ABORTED_WITHIN_S)


@pytest.mark.parametrize("deployment", ["Router", "Engine-steady"])
async def test_sockets_of_a_killed_replica_are_resumed_with_all_their_requests(
    failover: ServedApp, deployment: str
) -> None:
    whole = {"Router": 2, "Engine-steady": 3}
    await failover.until_whole(whole)
    request = chat("steady", 60, temperature=0.0, seed=3)
    expected = await whole_text(failover, request)
    readers = [asyncio.create_task(_read_whatever_breaks(failover.url, request, names)) for names in ("abc",) * 4]
    await failover.until_generating(12)
    victim = await failover.kill_busiest(deployment)
    answers = [answer for answers in await asyncio.gather(*readers) for answer in answers.values()]
    assert [answer.last["type"] for answer in answers] == ["done"] * 12, [answer.last for answer in answers]
    assert {answer.text for answer in answers} == {expected}
    await failover.until_whole(whole, without=[victim])


async def _read_whatever_breaks(url: str, request: dict[str, Any], names: str) -> dict[str, SocketAnswer]:
    """Ask on one socket, and go on on another whenever one breaks."""
    answers = {name: SocketAnswer() for name in names}
    while unfinished := {name for name, answer in answers.items() if not answer.ended}:
        try:
            async with ChatSocket(url, api_key=API_KEY) as socket:
                for name in unfinished:
                    if answers[name].messages:
                        await socket.resume(name, answers[name].stream_id, answers[name].position)
                    else:
                        await socket.ask(name, request, resume=True)
                while unfinished:
                    message = await socket.hear()
                    if message["type"] == "error" and message["retryable"]:
                        break
                    if answers[message["id"]].take(message):
                        unfinished.discard(message["id"])
        except (OSError, WebSocketException):
            await asyncio.sleep(0.2)
    return answers
