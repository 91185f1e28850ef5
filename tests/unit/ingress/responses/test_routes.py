from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.core.errors import (
    ClientTooSlow,
    ContextLengthExceeded,
    EngineLost,
    InvalidRequest,
    NoEngineAvailable,
    QueueFull,
    StreamTakenOver,
)
from serve_app.core.events import Accepted, TokenDelta
from serve_app.core.request import Sampling
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.responses.response_id import signed_response_id
from tests.support.fake_router import FakeRouter, Hang, Script, Silence, fail, speak
from tests.unit.ingress.requests import chat_body, error_of
from tests.unit.ingress.responses.exchanges import (
    HALF,
    OTHER_TENANT,
    URL,
    body,
    created,
    events_after,
    reading,
    retrieved,
)
from tests.unit.openai_api.responses import check_response, checked_events, numbers_of, types_of

# --- new responses


async def test_a_response_is_answered_whole_and_can_be_retrieved(http: httpx.AsyncClient, router: FakeRouter) -> None:
    document = await created(http, instructions="Be brief.", max_output_tokens=5, temperature=0, metadata={"a": "b"})
    assert document["status"] == "completed"
    assert document["output"][0]["content"][0]["text"] == "Hello"
    assert await retrieved(http, document["id"]) == document
    (request,) = router.requests
    assert request.sampling == Sampling(max_tokens=5, temperature=0.0)
    assert request.prompt.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    )
    assert all(stream.closed for stream in router.streams)


async def test_a_stored_response_goes_on_for_the_grace_time_and_a_background_one_to_its_end(
    http: httpx.AsyncClient, router: FakeRouter, config: IngressConfig
) -> None:
    for fields in ({}, {"background": True}, {"store": False}):
        await created(http, **fields)
    foreground, background, neither = (request.retention for request in router.requests)
    assert foreground is not None
    assert background is not None
    assert (foreground.grace_s, background.grace_s, neither) == (config.resume_grace_s, None, None)


async def test_a_response_that_is_not_stored_cannot_be_retrieved(http: httpx.AsyncClient) -> None:
    document = await created(http, store=False)
    response = await http.get(f"{URL}/{document['id']}")
    assert response.status_code == 404
    assert document["id"] in error_of(response)["message"]


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": True, "background": True}])
async def test_a_streamed_response_ends_with_what_is_retrieved(http: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await http.post(URL, json=body(**fields))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-ratelimit-limit-requests"] == "256"
    events = checked_events(response.text)
    assert numbers_of(events) == list(range(len(events)))
    assert types_of(events)[-1] == "completed"
    last = events[-1]["response"]
    assert await retrieved(http, last["id"]) == last


async def test_a_background_response_is_answered_at_once(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[Silence(3), Hang(), *speak("Hel", "lo")]]
    document = await created(http, background=True)
    assert (document["status"], document["background"], document["output"]) == ("queued", True, [])
    assert router.streams[0].timeouts_s == [0.1]
    assert router.streams[0].closed
    (key,) = router.retained
    assert (await retrieved(http, document["id"]))["status"] == "queued"
    router.go_on(key)
    assert (await retrieved(http, document["id"]))["status"] == "completed"


async def test_a_background_stream_is_opened_at_once_and_says_its_place(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[Silence(3), *speak("Hello")]]
    response = await http.post(URL, json=body(stream=True, background=True))
    created_event, queued, comment, in_progress = response.text.split("\n\n")[:4]
    assert created_event.startswith("event: response.created\n")
    assert queued.startswith("event: response.queued\n")
    assert comment == ": queued 3"
    assert in_progress.startswith("event: response.in_progress\n")
    assert router.streams[0].timeouts_s[0] == 0.1
    assert numbers_of(checked_events(response.text)) == list(range(10))


async def test_headers_of_other_streams_are_held_as_those_of_chat(
    http: httpx.AsyncClient, router: FakeRouter, config: IngressConfig
) -> None:
    router.scripts = [[Silence(), Silence(1), *speak("Hello")]]
    response = await http.post(URL, json=body(stream=True))
    assert router.streams[0].timeouts_s[:2] == [config.header_hold_s, config.keepalive_s]
    assert ": keep-alive" in response.text
    assert numbers_of(checked_events(response.text)) == list(range(9))


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}])
@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (QueueFull("full", 2), 429, None),
        (EngineLost("lost"), 503, None),
        (ContextLengthExceeded("too long"), 400, "input"),
        (InvalidRequest("empty", "messages"), 400, "input"),
    ],
)
async def test_a_failure_before_the_first_token_has_a_truthful_status(
    http: httpx.AsyncClient,
    router: FakeRouter,
    fields: dict[str, Any],
    error: QueueFull | EngineLost | InvalidRequest,
    status: int,
    param: str | None,
) -> None:
    router.scripts = [fail(error)]
    response = await http.post(URL, json=body(**fields))
    assert response.status_code == status
    assert error_of(response)["param"] == param
    assert ("retry-after" in response.headers) is (status == 429)


async def test_a_failure_within_the_stream_is_its_last_event_and_stays_retrievable(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], EngineLost("the replica died")]]
    events = checked_events((await http.post(URL, json=body(stream=True))).text)
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "the replica died"
    assert await retrieved(http, last["response"]["id"]) == last["response"]
    assert await events_after(http, last["response"]["id"], 2) == events[3:]


async def test_a_background_response_that_is_refused_later_has_failed_for_all_who_read_it(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[Silence(3), NoEngineAvailable("none came", 2)]]
    response_id = (await created(http, background=True))["id"]
    failed = await retrieved(http, response_id)
    assert (failed["status"], failed["error"]["type"]) == ("failed", "no_engine_available")
    events = await events_after(http, response_id)
    assert types_of(events) == ["created", "queued", "failed"]
    assert events[-1]["response"] == failed
    assert await events_after(http, response_id, 1) == events[2:]


@pytest.mark.parametrize("error", [ClientTooSlow("too slow"), StreamTakenOver("elsewhere")])
async def test_a_reader_that_is_cut_is_told_apart_from_a_response_that_failed(
    http: httpx.AsyncClient, router: FakeRouter, error: ClientTooSlow | StreamTakenOver
) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], error]]
    *events, last = checked_events((await http.post(URL, json=body(stream=True))).text)
    assert (last["type"], last["code"]) == ("error", error.code)
    assert last["sequence_number"] == events[-1]["sequence_number"]


async def test_a_request_that_is_wrong_is_refused_by_name_and_counted(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    response = await http.post(URL, json=body(tools=[{"type": "web_search"}]))
    assert response.status_code == 400
    assert error_of(response)["param"] == "tools"
    assert [code for _, _, code in router.turned_away_requests] == ["invalid_value"]
    assert (await http.post(URL, json={**body(), "model": "nope"})).status_code == 404
    assert (await http.get(URL)).status_code == 405


# --- reading again


async def test_after_every_number_comes_exactly_the_rest(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [speak("A", "", "é", "\u2028", "\n\n", "!")]
    whole = checked_events((await http.post(URL, json=body(stream=True, background=True))).text)
    response_id = whole[0]["response"]["id"]
    assert await events_after(http, response_id) == whole
    for number in range(len(whole)):
        assert await events_after(http, response_id, number) == whole[number + 1 :]


ENDINGS: list[Script] = [
    speak("A", "", "b"),
    speak(),
    [[Accepted(3, [1, 2, 3])], [TokenDelta(0, 0, 1, "A", [1])], EngineLost("lost")],
    [[Accepted(3, [1, 2, 3])], EngineLost("lost")],
    fail(QueueFull("full")),
]
"""Whole, empty, cut in the middle, before its first token, and refused."""


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("script", ENDINGS)
async def test_a_number_beyond_the_end_of_an_ended_response_is_refused_as_an_offset_is(
    http: httpx.AsyncClient, router: FakeRouter, script: Script, background: bool
) -> None:
    router.scripts = [script]
    await http.post(URL, json=body(stream=True, background=background))
    (key,) = router.retained
    response_id = signed_response_id(router, key, "anonymous")
    whole = await events_after(http, response_id)
    last = whole[-1]["sequence_number"]
    assert await events_after(http, response_id, last) == []

    for beyond in (last + 1, 999_999):
        response = await http.get(f"{URL}/{response_id}", params={"stream": "true", "starting_after": str(beyond)})
        assert response.status_code == 400
        error = error_of(response)
        assert (error["param"], error["code"]) == ("starting_after", "invalid_value")
    assert all(stream.closed for stream in router.streams)


async def test_a_running_response_is_read_from_any_number_while_it_goes_on(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [HALF]
    response_id = (await created(http, background=True))["id"]
    assert (await retrieved(http, response_id))["status"] == "in_progress"
    (key,) = router.retained
    readers = [await reading(http, router, response_id, number) for number in range(12)]
    router.go_on(key)
    rests = await asyncio.gather(*readers)
    whole = await events_after(http, response_id)
    assert types_of(whole)[-1] == "completed"
    assert rests == [whole[number + 1 :] for number in range(12)]


async def test_only_the_own_tenant_finds_a_response(http: httpx.AsyncClient) -> None:
    response_id = (await created(http, background=True))["id"]
    url = f"{URL}/{response_id}"
    for answer in (
        await http.get(url, headers=OTHER_TENANT),
        await http.get(url, params={"stream": "true"}, headers=OTHER_TENANT),
        await http.post(f"{url}/cancel", headers=OTHER_TENANT),
        await http.delete(url, headers=OTHER_TENANT),
        await http.get(f"{url}/input_items", headers=OTHER_TENANT),
    ):
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "response_not_found"
    assert (await http.get(url)).status_code == 200


@pytest.mark.parametrize(
    "response_id", ["resp_", "resp_abc", "nope", "resp_" + "A" * 38, "resp_é", "resp_" + "x" * 999]
)
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_made_up_id_finds_nothing(http: httpx.AsyncClient, response_id: str, stream: str) -> None:
    answer = await http.get(f"{URL}/{response_id}", params={"stream": stream})
    assert answer.status_code == 404
    assert len(error_of(answer)["message"]) < 200


async def test_the_stream_of_another_api_is_no_response(http: httpx.AsyncClient, router: FakeRouter) -> None:
    chat = await http.post("/v1/chat/completions", json=chat_body(stream=True), headers={"X-Stream-Resume": "true"})
    url = f"{URL}/resp_{chat.headers['x-stream-id']}"
    for answer in (await http.get(url), await http.get(url, params={"stream": "true"}), await http.delete(url)):
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "response_not_found"
    assert all(stream.closed for stream in router.streams)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"starting_after": "1"}, "starting_after"),
        ({"stream": "true", "starting_after": "-1"}, "starting_after"),
        ({"stream": "true", "starting_after": "x"}, "starting_after"),
        ({"stream": "maybe"}, "stream"),
        ({"include[]": "message.output_text.logprobs"}, "include"),
    ],
)
async def test_wrong_query_parameters_are_refused_by_name(
    http: httpx.AsyncClient, params: dict[str, str], param: str
) -> None:
    response_id = (await created(http))["id"]
    answer = await http.get(f"{URL}/{response_id}", params=params)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


# --- cancelling, deleting, input items


async def test_cancelling_ends_a_background_response_and_is_idempotent(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [HALF]
    response_id = (await created(http, background=True))["id"]
    reader = await reading(http, router, response_id)
    first = await http.post(f"{URL}/{response_id}/cancel")
    assert first.status_code == 200
    assert check_response(first.json()).status == "cancelled"
    assert (await http.post(f"{URL}/{response_id}/cancel")).json() == first.json()
    assert await retrieved(http, response_id) == first.json()
    live = await reader
    assert live[-1]["type"] == "response.incomplete"
    assert live[-1]["response"] == first.json()
    assert await events_after(http, response_id) == live


async def test_cancelling_a_finished_background_response_changes_nothing(http: httpx.AsyncClient) -> None:
    document = await created(http, background=True)
    cancelled = await http.post(f"{URL}/{document['id']}/cancel")
    assert cancelled.json()["status"] == "completed"


async def test_only_background_responses_can_be_cancelled(http: httpx.AsyncClient, router: FakeRouter) -> None:
    response_id = (await created(http))["id"]
    answer = await http.post(f"{URL}/{response_id}/cancel")
    assert answer.status_code == 400
    assert "synchronous" in error_of(answer)["message"]
    assert not any(retained.stopped for retained in router.retained.values())


async def test_a_deleted_response_is_gone(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [HALF]
    response_id = (await created(http, background=True))["id"]
    deleted = await http.delete(f"{URL}/{response_id}")
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    assert router.retained == {}
    for answer in (await http.get(f"{URL}/{response_id}"), await http.delete(f"{URL}/{response_id}")):
        assert answer.status_code == 404


async def test_input_items_come_in_pages_and_in_both_orders(http: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": f"m{number}"} for number in range(5)]
    url = f"{URL}/{(await created(http, input=messages, instructions='x'))['id']}/input_items"

    async def page(**params: str) -> dict[str, Any]:
        answer = await http.get(url, params=params)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def texts(document: dict[str, Any]) -> list[str]:
        return [item["content"][0]["text"] for item in document["data"]]

    assert texts(await page()) == ["m4", "m3", "m2", "m1", "m0"]
    first = await page(order="asc", limit="3")
    assert (texts(first), first["has_more"]) == (["m0", "m1", "m2"], True)
    assert (first["first_id"], first["last_id"]) == (first["data"][0]["id"], first["data"][-1]["id"])
    rest = await page(order="asc", limit="3", after=first["last_id"])
    assert (texts(rest), rest["has_more"]) == (["m3", "m4"], False)
    empty = await page(order="asc", after=rest["last_id"])
    assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], None, False)
    for name, value in (("order", "up"), ("limit", "0"), ("limit", "101"), ("limit", "x"), ("after", "msg_x")):
        answer = await http.get(url, params={name: value})
        assert answer.status_code == 400
        assert error_of(answer)["param"] == name


# --- conversations


async def test_a_response_goes_on_with_the_conversation_of_the_previous_one(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    first = await created(http, instructions="Be brief.")
    second = await created(http, input="and?", previous_response_id=first["id"], instructions="Be long.")
    assert second["previous_response_id"] == first["id"]
    third = await created(http, input="so?", previous_response_id=second["id"])
    assert router.requests[-1].prompt.messages == (
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "so?"},
    )
    assert third["instructions"] is None
    assert second["instructions"] == "Be long."


async def test_a_previous_response_must_be_the_tenants_own_ended_and_bounded(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    first = (await created(http))["id"]
    for given, headers in ((first, OTHER_TENANT), ("resp_nope", {})):
        answer = await http.post(URL, json=body(previous_response_id=given), headers=headers)
        assert answer.status_code == 400
        error = error_of(answer)
        assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
    router.scripts = [HALF]
    running = (await created(http, background=True))["id"]
    answer = await http.post(URL, json=body(previous_response_id=running))
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "previous_response_id"
    router.scripts = [speak("x" * 10_001)]
    long = (await created(http))["id"]
    answer = await http.post(URL, json=body(previous_response_id=long))
    assert answer.status_code == 413
