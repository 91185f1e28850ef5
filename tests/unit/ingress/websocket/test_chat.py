from __future__ import annotations

import asyncio

import pytest

from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta, TokenLogprob
from serve_app.core.request import Priority
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.websocket.config import WebSocketConfig
from tests.support.fake_router import FakeRouter, Silence, speak
from tests.unit.ingress.hanging_script import HANGING
from tests.unit.ingress.websocket.client import SocketClient, text_of

STOP = Finished(0, FinishReason.STOP)


async def test_an_answer_is_accepted_then_tokens_then_done(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.ask("a")
        accepted, hel, lo, done = await client.hear_until("done")
    assert accepted == {"type": "accepted", "id": "a", "request_id": accepted["request_id"]}
    assert hel == {"type": "token", "id": "a", "content": "Hel", "position": 1}
    assert lo == {"type": "token", "id": "a", "content": "lo", "position": 2}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert done == {
        "type": "done",
        "id": "a",
        "finish_reason": "stop",
        "stop_reason": None,
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 0}},
    }
    assert router.streams[0].closed


async def test_all_that_came_together_is_one_message_and_text_is_any_text(router: FakeRouter) -> None:
    text = 'He said "no"\n\u2028\x00 안녕 🙂'
    events = [TokenDelta(0, 0, 1, text, [1]), TokenDelta(0, 1, 2, "", [2, 3]), TokenDelta(0, 3, 1, "!", [4])]
    router.scripts = [[[Accepted(1, [1])], events, [STOP]]]
    async with SocketClient(router) as client:
        client.ask('id "with quotes"')
        heard = await client.hear_until("done")
    assert [m["content"] for m in heard if m["type"] == "token"] == [text + "!"]
    assert heard[1]["position"] == 4
    assert {message["id"] for message in heard} == {'id "with quotes"'}


async def test_tokens_that_come_with_the_end_are_told_before_it(router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1]), STOP]]]
    async with SocketClient(router) as client:
        client.ask("a")
        assert [message["type"] for message in await client.hear_until("done")] == ["accepted", "token", "done"]


async def test_an_id_is_free_when_the_client_hears_of_the_end(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        for _ in range(3):
            client.ask("a")
            assert text_of(await client.hear_until("done")) == "Hello"


async def test_logprobs_come_with_their_tokens(router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "", [1], [TokenLogprob("a", -0.5)])], [STOP]]]
    async with SocketClient(router) as client:
        client.ask("a", {"logprobs": True})
        heard = await client.hear_until("done")
    assert heard[1]["logprobs"]["content"][0]["logprob"] == -0.5
    assert heard[1]["position"] == 1


async def test_requests_are_answered_at_the_same_time(hanging: FakeRouter) -> None:
    hanging.scripts = [HANGING, speak("b1", "b2"), speak("c1")]
    async with SocketClient(hanging) as client:
        for name in "abc":
            client.ask(name)
        heard = await client.hear_until("done") + await client.hear_until("done")
    assert [text_of(heard, name) for name in "abc"] == ["a", "b1b2", "c1"]


async def test_requests_of_a_socket_take_turns() -> None:
    router = FakeRouter([speak(*"aaaa"), speak(*"bbbb")])
    async with SocketClient(router) as client:
        client.ask("a")
        client.ask("b")
        heard = await client.hear_until("done") + await client.hear_until("done")
    order = "".join(message["id"] for message in heard if message["type"] == "token")
    assert order == "abababab"


async def test_body_headers_and_fields_become_the_request(router: FakeRouter) -> None:
    headers = {"Authorization": "Bearer key", "X-Priority": "batch", "X-Deadline-Ms": "9000", "X-Request-ID": "conn"}
    async with SocketClient(router, headers=headers) as client:
        client.ask("a", {"max_tokens": 7})
        client.ask("b", priority="interactive", timeout_ms=1500, resume=None)
        await client.hear_until("done")
        await client.hear_until("done")
    first, second = router.requests
    assert (first.priority, first.timeout_s, first.sampling.max_tokens) == (Priority.BATCH, 9.0, 7)
    assert (second.priority, second.timeout_s, second.retention) == (Priority.INTERACTIVE, 1.5, None)
    assert first.tenant == second.tenant != "anonymous"
    assert [first.request_id, second.request_id] == ["conn-1", "conn-2"]


async def test_the_token_may_come_as_subprotocol_or_first_message(router: FakeRouter) -> None:
    for way in ("header", "subprotocol", "message"):
        offers = ["bearer.key"] if way == "subprotocol" else []
        headers = {"Authorization": "Bearer key"} if way == "header" else {}
        async with SocketClient(router, headers=headers, subprotocols=offers) as client:
            if way == "message":
                client.say({"type": "auth", "token": "key"})
            client.ask("a")
            await client.hear_until("done")
            assert client.accepted["subprotocol"] == (offers[0] if offers else None)
    assert len({request.tenant for request in router.requests}) == 1
    assert router.requests[0].tenant != "anonymous"


async def test_the_own_subprotocol_is_chosen_before_the_token(router: FakeRouter) -> None:
    async with SocketClient(router, subprotocols=["bearer.key", "serve-app.v1"]) as client:
        client.say({"type": "ping"})
        await client.hear()
        assert client.accepted["subprotocol"] == "serve-app.v1"


async def test_a_token_cannot_be_changed_after_it_is_known_or_used(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.ask("a")
        await client.hear_until("done")
        client.say({"type": "auth", "token": "key"})
        assert (await client.hear())["error"]["param"] == "type"
    async with SocketClient(router, headers={"Authorization": "Bearer key"}) as client:
        client.say({"type": "auth", "token": "other"})
        assert (await client.hear())["error"]["param"] == "type"


async def test_a_wrong_header_of_the_handshake_is_told_before_the_socket_is_closed(router: FakeRouter) -> None:
    client = SocketClient(router, headers={"X-Priority": "high"})
    assert (await client.hear())["error"]["param"] == "X-Priority"
    await client.ended()
    assert client.closed is not None
    assert client.closed["code"] == 1008


async def test_pings_are_answered_with_their_id(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.say({"type": "ping"})
        client.say({"type": "ping", "id": "p"})
        assert [await client.hear(), await client.hear()] == [{"type": "pong"}, {"type": "pong", "id": "p"}]


# --- the queue


async def test_the_place_in_the_queue_is_told_when_it_changes_and_from_time_to_time(router: FakeRouter) -> None:
    config = IngressConfig(keepalive_s=2.0, websocket=WebSocketConfig(queue_look_s=0.5))
    waits = [Silence(3), Silence(3), Silence(2), *[Silence(2)] * 5, Silence(None)]
    router.scripts = [[*waits, *speak("hi")]]
    async with SocketClient(router, config=config) as client:
        client.ask("a", resume=True)
        heard = await client.hear_until("done")
    assert [message["position"] for message in heard if message["type"] == "queued"] == [3, 2, 2]
    stream_ids = {m.get("stream_id") for m in heard if m["type"] in ("queued", "accepted")}
    assert len(stream_ids) == 1
    assert None not in stream_ids


async def test_an_accepted_request_is_waited_for_without_looking_at_the_queue(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a")
        await client.hear_until("token")
        await hanging.streams[0].waiting.wait()
        assert hanging.streams[0].timeouts_s == [0.5, None]


# --- cancel and leave


async def test_cancel_ends_the_generation_and_is_confirmed_with_the_usage(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a")
        await client.hear_until("token")
        client.say({"type": "cancel", "id": "a"})
        done = await client.hear()
        assert (done["type"], done["id"], done["finish_reason"]) == ("done", "a", "cancelled")
        assert done["usage"]["completion_tokens"] == 1
        assert hanging.streams[0].closed


async def test_cancel_before_the_request_has_begun_opens_nothing(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a")
        client.say({"type": "cancel", "id": "a"})
        assert [(await client.hear())["type"], len(hanging.streams)] == ["done", 0]


async def test_cancel_of_what_is_not_open_is_ignored(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.say({"type": "cancel", "id": "a"})
        client.say({"type": "ping"})
        assert await client.hear() == {"type": "pong"}


async def test_leaving_closes_every_stream(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a")
        client.ask("b", resume=True)
        await client.hear_until("token")
        await client.hear_until("token")
    assert [stream.closed for stream in hanging.streams] == [True, True]
    (retained,) = hanging.retained.values()
    assert not retained.stopped, "a stream that can be resumed is only left"


async def test_closing_streams_is_not_cut_short_when_the_host_cancels_as_well(hanging: FakeRouter) -> None:
    client = SocketClient(hanging)
    client.ask("a")
    await client.hear_until("token")
    stream = hanging.streams[0]
    stream.close_allowed.clear()
    client.leave()
    await stream.closing.wait()
    client.task.cancel()
    await asyncio.sleep(0)
    assert not client.task.done()
    stream.close_allowed.set()
    with pytest.raises(asyncio.CancelledError):
        await client.ended()
    assert stream.closed


async def test_closing_a_cancelled_stream_is_not_cut_short_when_the_client_leaves(hanging: FakeRouter) -> None:
    client = SocketClient(hanging)
    client.ask("a")
    await client.hear_until("token")
    stream = hanging.streams[0]
    stream.close_allowed.clear()
    client.say({"type": "cancel", "id": "a"})
    await stream.closing.wait()
    client.leave()
    await asyncio.sleep(0)
    stream.close_allowed.set()
    await client.ended()
    assert stream.closed
