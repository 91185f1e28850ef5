"""Streams begun on the chat socket that can be resumed, and those resumed on it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app.core.errors import ClientTooSlow, EngineLost, InvalidRequest
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.resume import stream_id
from serve_app.ingress.resume.opening import envelope_of
from tests.support.fake_router import FakeRouter, speak
from tests.unit.ingress.requests import CHAT, chat_body, events_of
from tests.unit.ingress.websocket.client import SocketClient, text_of


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
        router.resume = resume  # type: ignore[method-assign]  # a fault
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
    async def cancel(key: str, tenant: str, *, forget: bool = False) -> Any:
        raise EngineLost("lost")

    hanging.cancel = cancel  # type: ignore[method-assign]  # a fault
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


async def test_a_request_that_was_cut_before_its_id_came_is_repeated_by_its_key(router: FakeRouter) -> None:
    router.scripts = [speak("a", "b"), speak("another")]
    heard = []
    for client_id in ("first", "again"):
        async with SocketClient(router) as client:
            client.ask(client_id, idempotency_key="mine")
            heard.append(await client.hear_until("done"))
    assert [text_of(messages, name) for messages, name in zip(heard, ("first", "again"), strict=True)] == ["ab", "ab"]
    assert len({messages[0]["stream_id"] for messages in heard}) == 1
    assert len(router.retained) == 1


async def test_a_key_belongs_to_one_request_and_one_tenant(router: FakeRouter) -> None:
    async with SocketClient(router) as client:
        client.ask("a", idempotency_key="mine")
        await client.hear_until("done")
        client.ask("b", {"max_tokens": 3}, idempotency_key="mine")
        refused = await client.hear()
    assert (refused["error"]["code"], refused["error"]["param"]) == ("stream_conflict", "idempotency_key")
    async with SocketClient(router, headers={"Authorization": "Bearer other"}) as client:
        client.ask("a", {"max_tokens": 3}, idempotency_key="mine")
        await client.hear_until("done")
    assert len(router.retained) == 2


async def test_a_failed_stream_is_begun_anew_by_its_key(router: FakeRouter) -> None:
    router.scripts = [[EngineLost("gone")], speak("a")]
    async with SocketClient(router) as client:
        client.ask("a", idempotency_key="mine")
        assert (await client.hear_until("error", "done"))[-1]["type"] == "error"
        client.ask("a", idempotency_key="mine")
        assert text_of(await client.hear_until("error", "done"), "a") == "a"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "a\n"])
async def test_a_key_is_printable_and_not_long(router: FakeRouter, key: str) -> None:
    async with SocketClient(router) as client:
        client.ask("a", idempotency_key=key)
        answer = await client.hear()
    assert answer["error"]["param"] == "idempotency_key"
    assert answer["error"]["message"].endswith("it must be 1 to 255 printable ASCII characters.")
