from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.core.errors import (
    ClientTooSlow,
    ContextLengthExceeded,
    EngineLost,
    InvalidRequest,
    QueueFull,
)
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta, TokenLogprob
from serve_app.core.request import Priority
from serve_app.ingress import stream_id
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.retained_envelope import envelope_of
from serve_app.ingress.websocket_config import WebSocketConfig
from tests.support.fake_router import FakeRouter, Hang, Script, Silence, fail, speak
from tests.unit.ingress.requests import CHAT, chat_body, events_of
from tests.unit.ingress.websocket_client import SocketClient, text_of

HANGING: Script = [[Accepted([1]), TokenDelta(0, 0, [1], "a")], Hang()]
STOP = Finished(0, FinishReason.STOP)


@pytest.fixture
def hanging() -> FakeRouter:
    """Each stream says one token and then nothing for ever."""
    return FakeRouter([HANGING])


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
    events = [TokenDelta(0, 0, [1], text), TokenDelta(0, 1, [2, 3], ""), TokenDelta(0, 3, [4], "!")]
    router.scripts = [[[Accepted([1])], events, [STOP]]]
    async with SocketClient(router) as client:
        client.ask('id "with quotes"')
        heard = await client.hear_until("done")
    assert [m["content"] for m in heard if m["type"] == "token"] == [text + "!"]
    assert heard[1]["position"] == 4
    assert {message["id"] for message in heard} == {'id "with quotes"'}


async def test_tokens_that_come_with_the_end_are_told_before_it(router: FakeRouter) -> None:
    router.scripts = [[[Accepted([1]), TokenDelta(0, 0, [1], "a"), STOP]]]
    async with SocketClient(router) as client:
        client.ask("a")
        assert [message["type"] for message in await client.hear_until("done")] == ["accepted", "token", "done"]


async def test_an_id_is_free_when_the_client_hears_of_the_end(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        for _ in range(3):
            client.ask("a")
            assert text_of(await client.hear_until("done")) == "Hello"


async def test_logprobs_come_with_their_tokens(router: FakeRouter) -> None:
    router.scripts = [[[Accepted([1])], [TokenDelta(0, 0, [1], "", [TokenLogprob("a", -0.5)])], [STOP]]]
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


# --- errors


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ('{"type":"request","id":"a","body":' + "[" * 100_000, None, "invalid_json"),
        ("[1]", None, "invalid_type"),
        (b"{}", None, "invalid_type"),
        ({}, "type", "missing_required_parameter"),
        ({"type": "shout"}, "type", "invalid_value"),
        ({"type": "request", "id": "a"}, "body", "missing_required_parameter"),
        ({"type": "request", "id": 5, "body": {}}, "id", "invalid_type"),
        ({"type": "request", "id": "", "body": {}}, "id", "invalid_value"),
        ({"type": "request", "id": "x" * 129, "body": {}}, "id", "invalid_value"),
        ({"type": "request", "id": "a", "body": {}, "priority": "high"}, "priority", "invalid_value"),
        ({"type": "request", "id": "a", "body": {}, "timeout_ms": 0}, "timeout_ms", "invalid_value"),
        ({"type": "request", "id": "a", "body": {}, "resume": "yes"}, "resume", "invalid_type"),
        ({"type": "request", "id": "a", "body": {}, "speed": 1}, "speed", "unknown_parameter"),
        ({"type": "resume", "id": "a", "position": -1}, "position", "invalid_value"),
        ({"type": "cancel"}, "id", "missing_required_parameter"),
        ({"type": "ping", "id": 1}, "id", "invalid_type"),
    ],
)
async def test_a_malformed_message_gets_an_error_that_names_the_field_and_the_socket_goes_on(
    router: FakeRouter, message: dict[str, Any] | str | bytes, param: str | None, code: str
) -> None:
    async with SocketClient(router) as client:
        client.say(message)
        answer = await client.hear()
        assert answer["type"] == "error"
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
        assert answer["error"]["type"] == "invalid_request_error"
        assert not answer["retryable"]
        client.ask("b")
        assert text_of(await client.hear_until("done")) == "Hello"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": 5}, "body.messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "body.messages.0.content", "missing_required_parameter"),
        ({"model": "other"}, "body.model", "model_not_found"),
        ({"n": 2}, "body.n", "unsupported_value"),
        ({"shout": True}, "body.shout", "unknown_parameter"),
    ],
)
async def test_a_wrong_body_ends_its_request_with_an_error_that_names_the_field(
    router: FakeRouter, body: dict[str, Any], param: str, code: str
) -> None:
    async with SocketClient(router) as client:
        client.ask("a", body)
        answer = await client.hear()
        assert (answer["type"], answer["id"]) == ("error", "a")
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
        client.ask("a")
        assert text_of(await client.hear_until("done")) == "Hello"


async def test_a_body_that_is_no_object_names_the_body(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.say({"type": "request", "id": "a", "body": [1]})
        assert (await client.hear())["error"]["param"] == "body"


async def test_requests_that_cannot_be_read_are_counted(router: FakeRouter) -> None:
    async with SocketClient(router, headers={"X-Request-ID": "conn"}) as client:
        client.ask("a", {"n": 2})
        await client.hear()
    assert [request_id for request_id, *_ in router.turned_away_requests] == ["conn-1"]


async def test_a_refusal_says_when_to_come_back(router: FakeRouter) -> None:
    router.scripts = [fail(QueueFull("full", 1.2))]
    async with SocketClient(router) as client:
        client.ask("a")
        answer = await client.hear()
    assert answer["error"] == {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    assert (answer["id"], answer["retryable"], answer["retry_after_ms"]) == ("a", True, 1200)


async def test_an_overlong_prompt_names_the_messages(router: FakeRouter) -> None:
    router.scripts = [fail(ContextLengthExceeded("too long"))]
    async with SocketClient(router) as client:
        client.ask("a")
        assert (await client.hear())["error"]["param"] == "body.messages"


async def test_a_failure_in_the_middle_ends_only_its_request(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        for name in "ab":
            client.ask(name)
            await client.hear_until("token")
        for stream in hanging.streams:
            await stream.waiting.wait()
        hanging.streams[0].fail(EngineLost("lost"))
        answer = (await client.hear_until("error"))[-1]
        assert (answer["id"], answer["error"]["code"], answer["retryable"]) == ("a", "engine_lost", True)
        assert [stream.closed for stream in hanging.streams] == [True, False]


async def test_defects_are_told_without_their_details(router: FakeRouter) -> None:
    router.scripts = [[ValueError("secret")]]
    async with SocketClient(router) as client:
        client.ask("a")
        answer = await client.hear()
    assert answer["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(answer)


async def test_a_stream_that_ends_before_its_answer_is_an_error(router: FakeRouter) -> None:
    router.scripts = [[[Accepted([1])]]]
    async with SocketClient(router) as client:
        client.ask("a")
        assert (await client.hear_until("error"))[-1]["error"]["code"] == "internal_error"


async def test_an_id_in_use_is_refused_and_its_request_goes_on(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a")
        await client.hear_until("token")
        client.ask("a")
        answer = await client.hear()
        assert "id" not in answer, "an error with an id would end the request"
        assert (answer["error"]["param"], answer["error"]["code"]) == ("id", "id_in_use")
        client.say({"type": "request", "id": "a"})
        assert "id" not in await client.hear()
        assert len(hanging.streams) == 1
        assert not hanging.streams[0].closed


# --- bounds


def bounded(**bounds: Any) -> IngressConfig:
    return IngressConfig(websocket=WebSocketConfig(**bounds))


async def test_requests_beyond_the_bound_of_a_socket_are_refused_until_one_ends(hanging: FakeRouter) -> None:
    async with SocketClient(hanging, config=bounded(max_requests=2)) as client:
        for name in "abc":
            client.ask(name)
        answer = (await client.hear_until("error"))[-1]
        assert (answer["id"], answer["error"]["code"], answer["retry_after_ms"]) == ("c", "queue_full", 1000)
        client.say({"type": "cancel", "id": "a"})
        await client.hear_until("done")
        client.ask("c")
        assert (await client.hear())["id"] == "c"


async def test_a_message_beyond_the_bound_gets_an_error(router: FakeRouter) -> None:
    async with SocketClient(router, config=bounded(max_message_bytes=200)) as client:
        client.say({"type": "ping", "id": "é" * 99})
        answer = await client.hear()
        assert (answer["error"]["code"], "id" in answer) == ("payload_too_large", False)
        client.say({"type": "ping", "id": "é" * 80})
        assert (await client.hear())["type"] == "pong"


async def test_malformed_messages_in_a_row_close_the_socket(router: FakeRouter) -> None:
    client = SocketClient(router, config=bounded(max_mistakes=3))
    for message in ("{", "{", {"type": "ping"}, "{", "{", "{"):
        client.say(message)
    await client.ended()
    assert [message["type"] for message in client.sent] == ["error", "error", "pong", "error", "error", "error"]
    assert client.closed is not None
    assert client.closed["code"] == 1008


async def test_pings_of_a_client_that_reads_no_pongs_close_the_socket(hanging: FakeRouter) -> None:
    async with SocketClient(hanging, config=bounded(max_unsent_replies=5)) as client:
        client.ask("a")
        await client.hear_until("token")
        client.reads.clear()
        for _ in range(10):
            client.say({"type": "ping"})
        await hanging.streams[0].closing.wait()
        client.reads.set()
        await client.ended()
        assert client.closed is not None
        assert client.closed["code"] == 1008


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


async def test_what_begins_on_a_socket_goes_on_over_http_and_the_other_way_round(
    router: FakeRouter, http: httpx.AsyncClient
) -> None:
    async with SocketClient(router) as client:
        client.ask("a", resume=True)
        stream = (await client.hear_until("done"))[0]["stream_id"]
        rest = await http.get(f"/v1/streams/{stream}?offset=1")
        assert next(chunk["choices"][0]["delta"].get("content") for chunk in events_of(rest.text)[:-1]) == "lo"
        begun = await http.post(CHAT, json=chat_body(stream=True), headers={"X-Stream-Resume": "true"})
        client.say({"type": "resume", "id": "b", "stream_id": begun.headers["x-stream-id"], "position": 1})
        assert text_of(await client.hear_until("done")) == "lo"


# --- resume


async def test_a_resumed_stream_goes_on_after_the_position(router: FakeRouter) -> None:
    router.scripts = [speak(*"abcdef")]
    async with SocketClient(router) as client:
        client.ask("a", resume=True)
        whole = await client.hear_until("done")
    stream = whole[0]["stream_id"]
    for position in range(7):
        async with SocketClient(router) as client:
            client.say({"type": "resume", "id": "again", "stream_id": stream, "position": position})
            accepted, *tokens, done = await client.hear_until("done")
        assert accepted["stream_id"] == stream
        assert text_of(tokens, "again") == "abcdef"[position:]
        assert [token["position"] for token in tokens] == list(range(position + 1, 7))
        assert done["usage"] == whole[-1]["usage"]


async def test_a_stream_may_be_named_by_the_id_alone(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.ask("a", resume=True)
        stream = (await client.hear_until("done"))[0]["stream_id"]
        client.say({"type": "resume", "id": stream})
        assert text_of(await client.hear_until("done"), stream) == "Hello"


async def test_a_resumable_stream_is_retained_under_the_key_in_its_id_with_what_others_need(router: FakeRouter) -> None:
    async with SocketClient(router, config=IngressConfig(resume_grace_s=7.0)) as client:
        client.ask("a", resume=True)
        signed = (await client.hear_until("done"))[0]["stream_id"]
    retention = router.requests[0].retention
    assert retention is not None
    assert stream_id.verify(router.signing_key, signed, router.requests[0].tenant) == retention.key
    assert retention.grace_s == 7.0
    assert envelope_of(router.requests[0]).model == "test-model"


@pytest.mark.parametrize("names", [{"id": "a", "stream_id": "x" * 38}, {"id": "x" * 38}])
async def test_an_unknown_stream_names_the_field_that_named_it(router: FakeRouter, names: dict[str, str]) -> None:
    async with SocketClient(router) as client:
        client.say({"type": "resume", **names})
        answer = await client.hear()
    assert answer["id"] == names["id"]
    assert (answer["error"]["code"], answer["error"]["param"]) == ("stream_not_found", [*names][-1])


async def test_a_stream_of_another_tenant_is_not_found(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.ask("a", resume=True)
        stream = (await client.hear_until("done"))[0]["stream_id"]
    async with SocketClient(router, headers={"Authorization": "Bearer key"}) as client:
        client.say({"type": "resume", "id": "a", "stream_id": stream})
        assert (await client.hear())["error"]["code"] == "stream_not_found"


async def test_a_position_beyond_the_end_names_the_position(router: FakeRouter) -> None:
    async def resume(key: str, tenant: str, from_token: int = 0) -> Any:
        raise InvalidRequest("too far", "offset")

    async with SocketClient(router) as client:
        client.ask("a", resume=True)
        stream = (await client.hear_until("done"))[0]["stream_id"]
        router.resume = resume  # type: ignore[method-assign]
        client.say({"type": "resume", "id": "a", "stream_id": stream, "position": 99})
        assert (await client.hear())["error"]["param"] == "position"


async def test_cancel_of_a_resumable_stream_ends_its_generation_for_all_readers(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a", resume=True)
        stream = (await client.hear_until("token"))[0]["stream_id"]
        client.say({"type": "resume", "id": "b", "stream_id": stream})
        await client.hear_until("token")
        client.say({"type": "cancel", "id": "b"})
        done = (await client.hear_until("done"))[-1]
        assert done["id"] == "b"
        assert [retained.stopped for retained in hanging.retained.values()] == [True]


async def test_cancel_of_an_own_resumable_stream_ends_its_generation(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a", resume=True)
        await client.hear_until("token")
        client.say({"type": "cancel", "id": "a"})
        await client.hear_until("done")
        assert [retained.stopped for retained in hanging.retained.values()] == [True]


async def test_a_cancel_that_fails_is_told(hanging: FakeRouter) -> None:
    async def stop_retained(key: str, tenant: str, *, forget: bool = False) -> Any:
        raise EngineLost("lost")

    hanging.stop_retained = stop_retained  # type: ignore[method-assign]
    async with SocketClient(hanging) as client:
        client.ask("a", resume=True)
        await client.hear_until("token")
        client.say({"type": "cancel", "id": "a"})
        assert (await client.hear_until("error"))[-1]["id"] == "a"


async def test_cancel_of_a_forgotten_stream_is_confirmed(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a", resume=True)
        await client.hear_until("token")
        hanging.retained.clear()
        client.say({"type": "cancel", "id": "a"})
        assert (await client.hear())["finish_reason"] == "cancelled"


async def test_a_stream_cut_for_slowness_ends_in_an_error_and_can_be_resumed(hanging: FakeRouter) -> None:
    async with SocketClient(hanging) as client:
        client.ask("a", resume=True)
        stream = (await client.hear_until("token"))[0]["stream_id"]
        await hanging.streams[0].waiting.wait()
        hanging.streams[0].fail(ClientTooSlow("too slow"))
        assert (await client.hear())["error"]["code"] == "client_too_slow"
        client.say({"type": "resume", "id": "a", "stream_id": stream, "position": 0})
        assert text_of(await client.hear_until("token")) == "a"
