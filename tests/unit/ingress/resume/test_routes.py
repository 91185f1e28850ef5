from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.core.errors import ContextLengthExceeded, EngineLost, QueueFull, StreamNotFound
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta, TokenLogprob
from serve_app.core.interfaces import KeptState
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.resume.stream_id import verify
from tests.support.fake_router import FakeRouter, Hang, Script, Silence, fail, speak
from tests.unit.ingress.requests import CHAT, COMPLETIONS, chat_body, completion_body, error_of, events_of

WORDS = ("One", " two", " three", " four")
RESUME = {"X-Stream-Resume": "true"}
STREAMED = chat_body(stream=True, stream_options={"include_usage": True})


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter([speak(*WORDS)])


def blocks_of(text: str) -> list[str]:
    return [block + "\n\n" for block in text.removesuffix("\n\n").split("\n\n")]


def id_of(block: str) -> str | None:
    return next((line.removeprefix("id: ") for line in block.splitlines() if line.startswith("id: ")), None)


async def begun(http: httpx.AsyncClient, body: Mapping[str, Any] = STREAMED, **headers: str) -> httpx.Response:
    response = await http.post(CHAT if "messages" in body else COMPLETIONS, json=body, headers={**RESUME, **headers})
    assert response.status_code == 200
    return response


async def test_a_stream_can_be_resumed_only_when_its_request_says_so(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    for headers in ({}, {"X-Stream-Resume": "false"}, {"Last-Event-ID": ""}):
        plain = await http.post(CHAT, json=STREAMED, headers=headers)
        assert "x-stream-id" not in plain.headers
        assert "id: " not in plain.text
    assert [request.retention for request in router.requests] == [None] * 3


async def test_the_response_names_the_stream_and_the_router_retains_it(
    http: httpx.AsyncClient, router: FakeRouter, config: IngressConfig
) -> None:
    response = await begun(http)
    (retained,) = router.retained
    assert verify(router.signing_key, response.headers["x-stream-id"], "anonymous") == retained
    (request,) = router.requests
    assert request.retention is not None
    assert request.retention.grace_s == config.resume_grace_s
    ids = [id_of(block) for block in blocks_of(response.text)]
    stream_id = response.headers["x-stream-id"]
    assert ids == [*(f"{stream_id}.{position}" for position in range(5)), None, None, None]


@pytest.mark.parametrize("body", [STREAMED, completion_body(stream=True, stream_options={"include_usage": True})])
async def test_repeating_the_request_with_any_event_id_brings_exactly_the_rest(
    http: httpx.AsyncClient, router: FakeRouter, body: dict[str, Any]
) -> None:
    path = CHAT if "messages" in body else COMPLETIONS
    whole = blocks_of((await begun(http, body)).text)
    places = [index for index, block in enumerate(whole) if id_of(block) is not None]
    assert len(places) >= len(WORDS)
    for index in places:
        event_id = id_of(whole[index])
        assert event_id is not None
        again = await http.post(path, json=body, headers={"Last-Event-ID": event_id})
        assert again.headers["x-stream-id"] == event_id.partition(".")[0]
        assert again.headers["x-ratelimit-limit-requests"] == "256"
        assert blocks_of(again.text) == whole[index + 1 :]
    assert len(router.retained) == 1


async def test_a_stream_is_read_from_any_offset(http: httpx.AsyncClient) -> None:
    first = await begun(http)
    url = f"/v1/streams/{first.headers['x-stream-id']}"
    whole = blocks_of(first.text)
    assert blocks_of((await http.get(url)).text) == whole
    assert blocks_of((await http.get(url, params={"offset": "0"})).text) == whole
    for offset in range(1, 5):
        response = await http.get(url, params={"offset": str(offset)})
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-stream-id"] == first.headers["x-stream-id"]
        assert blocks_of(response.text) == whole[offset + 1 :]


async def test_a_browsers_event_source_goes_on_after_the_event_it_saw_last(http: httpx.AsyncClient) -> None:
    first = await begun(http)
    stream_id = first.headers["x-stream-id"]
    for position in range(5):
        headers = {"Last-Event-ID": f"{stream_id}.{position}"}
        response = await http.get(f"/v1/streams/{stream_id}?offset=0", headers=headers)
        assert blocks_of(response.text) == blocks_of(first.text)[position + 1 :]


async def test_an_id_that_names_no_stream_of_the_tenant_is_404(http: httpx.AsyncClient, router: FakeRouter) -> None:
    first = await begun(http, Authorization="Bearer mine")
    stream_id = first.headers["x-stream-id"]
    mine = {"Authorization": "Bearer mine"}
    other = (await begun(http, Authorization="Bearer mine")).headers["x-stream-id"]
    responses = [
        await http.get(f"/v1/streams/{stream_id}"),
        await http.get(f"/v1/streams/{stream_id}", headers={"Authorization": "Bearer yours"}),
        await http.get(f"/v1/streams/{stream_id[:-1]}", headers=mine),
        await http.get("/v1/streams/nonsense", headers=mine),
        await http.get(f"/v1/streams/{stream_id}", headers={**mine, "Last-Event-ID": f"{other}.1"}),
        await http.delete(f"/v1/streams/{stream_id}"),
        await http.post(CHAT, json=STREAMED, headers={"Last-Event-ID": f"{stream_id}.1"}),
        await http.post(CHAT, json=STREAMED, headers={**mine, "Last-Event-ID": stream_id}),
        await http.post(CHAT, json=STREAMED, headers={**mine, "Last-Event-ID": f"{stream_id}.x"}),
        await http.post(CHAT, json=STREAMED, headers={**mine, "Last-Event-ID": "5"}),
    ]
    router.retained.clear()
    responses += [
        await http.get(f"/v1/streams/{stream_id}", headers=mine),
        await http.delete(f"/v1/streams/{stream_id}", headers=mine),
        await http.post(CHAT, json=STREAMED, headers={**mine, "Last-Event-ID": f"{stream_id}.1"}),
    ]
    for response in responses:
        assert response.status_code == 404
        assert error_of(response)["code"] == "stream_not_found"
        assert error_of(response)["type"] == "invalid_request_error"
    assert len(router.requests) == 2


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "", "+1", "5", "999999999", "9999999999"])
async def test_an_offset_that_is_no_place_in_the_stream_is_400(http: httpx.AsyncClient, offset: str) -> None:
    first = await begun(http)
    response = await http.get(f"/v1/streams/{first.headers['x-stream-id']}", params={"offset": offset})
    assert response.status_code == 400
    assert error_of(response)["param"] == "offset"
    assert error_of(response)["code"] == "invalid_value"


@pytest.mark.parametrize("headers", [RESUME, {"Idempotency-Key": "a"}])
async def test_several_generations_in_one_request_cannot_be_resumed(
    http: httpx.AsyncClient, router: FakeRouter, headers: dict[str, str]
) -> None:
    for path, body, param in (
        (CHAT, chat_body(stream=True, n=2), "n"),
        (COMPLETIONS, completion_body(stream=True, prompt=["a", "b"]), "prompt"),
    ):
        response = await http.post(path, json=body, headers=headers)
        assert response.status_code == 400
        assert error_of(response)["param"] == param
    assert router.requests == []
    assert [code for _, _, code in router.turned_away_requests] == ["invalid_value"] * 2


@pytest.mark.parametrize(
    ("name", "value"), [("X-Stream-Resume", "maybe"), ("Idempotency-Key", ""), ("Idempotency-Key", "x" * 256)]
)
async def test_a_header_that_cannot_be_read_is_named(http: httpx.AsyncClient, name: str, value: str) -> None:
    response = await http.post(CHAT, json=STREAMED, headers={name: value})
    assert response.status_code == 400
    assert error_of(response)["param"] == name


async def test_another_request_cannot_be_continued_with_the_id_of_this_one(http: httpx.AsyncClient) -> None:
    stream_id = (await begun(http)).headers["x-stream-id"]
    other = chat_body(stream=True, temperature=0.5)
    response = await http.post(CHAT, json=other, headers={"Last-Event-ID": f"{stream_id}.1"})
    assert response.status_code == 409
    assert error_of(response)["code"] == "stream_conflict"


async def test_order_and_spacing_of_the_body_do_not_make_another_request(http: httpx.AsyncClient) -> None:
    stream_id = (await begun(http, chat_body(stream=True, seed=1))).headers["x-stream-id"]
    same = b'{"stream" : true,"seed":1, "messages":[{"content":"hello","role":"user"}],"model":"test-model"}'
    response = await http.post(CHAT, content=same, headers={"Last-Event-ID": f"{stream_id}.4"})
    assert response.status_code == 200
    assert events_of(response.text)[0]["choices"][0]["finish_reason"] == "stop"


async def test_usage_and_identity_are_those_of_the_whole_answer(http: httpx.AsyncClient) -> None:
    first = await begun(http)
    url = f"/v1/streams/{first.headers['x-stream-id']}"
    *chunks, usage, done = events_of((await http.get(url, params={"offset": "3"})).text)
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 4
    assert usage["usage"]["prompt_tokens"] == 3
    original = events_of(first.text)[0]
    for chunk in (*chunks, usage):
        assert {key: chunk[key] for key in ("id", "created", "model", "object")} == {
            key: original[key] for key in ("id", "created", "model", "object")
        }


async def test_log_probabilities_of_a_resumed_completion_count_from_its_beginning(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    deltas = [TokenDelta(0, i, 1, text, [i], [TokenLogprob(text, -0.1)]) for i, text in enumerate(WORDS)]
    router.scripts = [[[Accepted(1, [1])], *([delta] for delta in deltas), [Finished(0, FinishReason.STOP)]]]
    body = completion_body(stream=True, logprobs=0)
    whole = blocks_of((await begun(http, body)).text)
    event_id = id_of(whole[1])
    assert event_id is not None
    again = await http.post(COMPLETIONS, json=body, headers={"Last-Event-ID": event_id})
    assert blocks_of(again.text) == whole[2:]
    assert '"text_offset":[7]' in whole[2]


async def test_cancelling_ends_a_stream_for_all_readers(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], EngineLost("cut")]]
    url = f"/v1/streams/{(await begun(http)).headers['x-stream-id']}"
    (retained,) = router.retained.values()
    retained.script = [[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]
    for _ in range(2):
        response = await http.delete(url)
        assert response.status_code == 200
        assert response.json() == {"id": url.rpartition("/")[2], "object": "stream", "status": "cancelled"}
    assert retained.stopped


async def test_who_left_before_the_id_came_cancels_by_the_name_that_the_request_had(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], EngineLost("cut")]]
    name = {"Idempotency-Key": "mine"}
    stream_id = (await http.post(CHAT, json=STREAMED, headers=name)).headers["x-stream-id"]
    (retained,) = router.retained.values()
    retained.script = [[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Hang()]
    response = await http.delete("/v1/streams", headers=name)
    assert response.json() == {"id": stream_id, "object": "stream", "status": "cancelled"}
    assert retained.stopped
    assert (await http.delete("/v1/streams", headers={"Idempotency-Key": "another"})).status_code == 404
    unnamed = await http.delete("/v1/streams")
    assert (unnamed.status_code, error_of(unnamed)["param"]) == (400, "Idempotency-Key")


async def test_cancelling_what_had_ended_tells_how(http: httpx.AsyncClient, router: FakeRouter) -> None:
    first = await begun(http)
    url = f"/v1/streams/{first.headers['x-stream-id']}"
    assert (await http.delete(url)).json()["status"] == "completed"
    assert (await http.get(url)).text == first.text
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], EngineLost("cut")]]
    failed = await begun(http)
    assert (await http.delete(f"/v1/streams/{failed.headers['x-stream-id']}")).json()["status"] == "failed"


async def test_a_resumed_stream_that_cannot_be_continued_ends_in_its_error(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], EngineLost("cut")]]
    first = await begun(http)
    url = f"/v1/streams/{first.headers['x-stream-id']}"
    assert events_of((await http.get(url)).text)[-1]["error"]["code"] == "engine_lost"
    after = await http.get(url, params={"offset": "1"})
    assert after.status_code == 503
    assert error_of(after)["code"] == "engine_lost"


async def test_comments_after_an_id_end_no_event(http: httpx.AsyncClient, router: FakeRouter) -> None:
    """OpenAI's SDKs take an empty line for an event, once an event had an id."""
    router.scripts = [[Silence(2), [Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], Silence(), *speak("b")[2:]]]
    first = await begun(http)
    assert first.text.startswith(": queued 2\n")
    assert ": keep-alive\n" in first.text
    assert ": keep-alive\n\n" not in first.text
    assert ": queued 2\n\n" not in first.text


# --- Idempotency-Key

KEYED = {"Idempotency-Key": "order 66"}


async def test_a_repeated_key_reattaches_to_the_stream_from_its_beginning(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    first = await http.post(CHAT, json=STREAMED, headers=KEYED)
    second = await http.post(CHAT, json=STREAMED, headers=KEYED)
    assert first.headers["x-stream-id"] == second.headers["x-stream-id"]
    assert first.text == second.text
    assert "id: " in first.text
    assert len(router.retained) == 1
    assert len(router.scripts) == 1


async def test_a_repeated_key_with_an_event_id_goes_on_from_there(http: httpx.AsyncClient) -> None:
    first = await http.post(CHAT, json=STREAMED, headers=KEYED)
    headers = {**KEYED, "Last-Event-ID": f"{first.headers['x-stream-id']}.2"}
    second = await http.post(CHAT, json=STREAMED, headers=headers)
    assert blocks_of(second.text) == blocks_of(first.text)[3:]


async def test_keys_of_other_tenants_and_other_keys_are_other_streams(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    for headers in (KEYED, {**KEYED, "Authorization": "Bearer other"}, {"Idempotency-Key": "another"}):
        assert (await http.post(CHAT, json=STREAMED, headers=headers)).status_code == 200
    assert len(router.retained) == 3


async def test_a_repeated_key_with_another_body_is_409(http: httpx.AsyncClient, router: FakeRouter) -> None:
    await http.post(CHAT, json=STREAMED, headers=KEYED)
    for path, body in (
        (CHAT, chat_body(stream=True)),
        (CHAT, chat_body()),
        (COMPLETIONS, completion_body(stream=True)),
    ):
        response = await http.post(path, json=body, headers=KEYED)
        assert response.status_code == 409
        assert error_of(response)["code"] == "stream_conflict"
        assert response.headers["x-should-retry"] == "false"  # SDKs send a 409 twice more, with the same outcome
    assert len(router.retained) == 1


@pytest.mark.parametrize("headers", [{}, KEYED, {"X-Stream-Resume": "true"}])
async def test_a_field_that_nests_deeply_is_treated_alike_with_and_without_the_headers(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    nested = json.dumps({**STREAMED, "metadata": None}).replace("null", "[" * 254 + "]" * 254)
    sent = [await http.post(CHAT, content=nested, headers={"content-type": "application/json", **headers})] * 2

    assert {response.status_code for response in sent} == {200}


async def test_a_whole_answer_is_given_again_to_a_repeated_key(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [speak("first"), speak("second")]
    first = await http.post(CHAT, json=chat_body(), headers=KEYED)
    second = await http.post(CHAT, json=chat_body(), headers=KEYED)
    assert first.content == second.content
    assert first.json()["choices"][0]["message"]["content"] == "first"
    assert first.headers["content-type"] == "application/json"


async def test_a_whole_answer_is_whole_whatever_event_the_client_saw_last(http: httpx.AsyncClient) -> None:
    first = await http.post(CHAT, json=chat_body(), headers=KEYED)
    headers = {**KEYED, "Last-Event-ID": f"{first.headers['x-stream-id']}.2"}
    assert (await http.post(CHAT, json=chat_body(), headers=headers)).content == first.content


@pytest.mark.parametrize("script", [fail(QueueFull("full")), [[Accepted(1, [1])], EngineLost("gone")]])
async def test_a_repeated_key_begins_anew_what_failed(
    http: httpx.AsyncClient, router: FakeRouter, script: Script
) -> None:
    router.scripts = [script, speak("now")]
    assert (await http.post(CHAT, json=chat_body(), headers=KEYED)).status_code in (429, 503)
    again = await http.post(CHAT, json=chat_body(), headers=KEYED)
    assert again.json()["choices"][0]["message"]["content"] == "now"


async def test_a_key_that_another_request_takes_meanwhile_is_attached_to(
    http: httpx.AsyncClient, router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await http.post(CHAT, json=STREAMED, headers=KEYED)

    async def knows_nothing_yet(key: str, tenant: str) -> None:
        del key, tenant
        raise StreamNotFound("nothing yet")

    monkeypatch.setattr(router, "look_up", knows_nothing_yet)
    assert (await http.post(CHAT, json=STREAMED, headers=KEYED)).text == first.text
    other = await http.post(CHAT, json=chat_body(stream=True), headers=KEYED)
    assert error_of(other)["code"] == "stream_conflict"


async def test_a_first_try_is_not_looked_for_elsewhere(
    http: httpx.AsyncClient, router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    look_up = router.look_up

    async def counted(key: str, tenant: str) -> KeptState:
        looked_up.append(key)
        return await look_up(key, tenant)

    monkeypatch.setattr(router, "look_up", counted)
    first = await http.post(CHAT, json=STREAMED, headers={**KEYED, "X-Retry-Count": "0"})
    assert looked_up == []
    repeats = [{"X-Retry-Count": "1"}, {}, {"X-Retry-Count": "0"}]
    for headers in repeats:
        assert (await http.post(CHAT, json=STREAMED, headers={**KEYED, **headers})).text == first.text
    assert len(looked_up) == 2


async def test_a_reader_that_is_refused_leaves_the_stream(http: httpx.AsyncClient, router: FakeRouter) -> None:
    stream_id = (await begun(http)).headers["x-stream-id"]
    await http.post(CHAT, json=chat_body(stream=True), headers={"Last-Event-ID": f"{stream_id}.1"})
    assert [stream.closed for stream in router.streams] == [True, True]


async def test_what_asks_for_resume_without_a_stream_is_answered_plainly(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    response = await http.post(CHAT, json=chat_body(n=1), headers={**RESUME, "Last-Event-ID": "x.1"})
    assert response.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert router.requests[0].retention is None


async def test_an_overlong_prompt_of_a_resumable_stream_names_its_field(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [fail(ContextLengthExceeded("too long"))]
    for path, body, param in (
        (CHAT, STREAMED, "messages"),
        (COMPLETIONS, completion_body(stream=True), "prompt"),
    ):
        assert error_of(await http.post(path, json=body, headers=RESUME))["param"] == param


async def test_a_stream_of_another_kind_is_not_found(http: httpx.AsyncClient, router: FakeRouter) -> None:
    stream_id = (await begun(http)).headers["x-stream-id"]
    (retained,) = router.retained.values()
    assert retained.request.retention is not None
    for strange in (b"", b"responses", b"\x93\x01\x02\x03"):
        retained.request = replace(retained.request, retention=replace(retained.request.retention, envelope=strange))
        response = await http.get(f"/v1/streams/{stream_id}")
        assert error_of(response)["code"] == "stream_not_found"
    assert all(stream.closed for stream in router.streams)
