from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from ray import cloudpickle, serve

from serve_app.core.errors import DeadlineUnattainable, EngineFailed, NoEngineAvailable, QueueFull, StreamStalled
from serve_app.core.request import Priority, Prompt, Sampling
from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, fail, speak
from tests.unit.ingress.requests import CHAT, COMPLETIONS, chat_body, completion_body, error_of


async def test_models_are_listed(http: httpx.AsyncClient) -> None:
    response = await http.get("/v1/models")
    (model,) = response.json()["data"]
    assert response.json()["object"] == "list"
    assert (model["id"], model["object"], model["created"]) == ("test-model", "model", 1_700_000_000)
    assert model["max_model_len"] == 4096


async def test_a_model_whose_id_holds_a_slash_is_found(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.model_ids = ("org/name",)
    for path in ("/v1/models/org/name", "/v1/models/org%2Fname"):
        assert (await http.get(path)).json()["id"] == "org/name"


async def test_an_unknown_model_is_404_everywhere(http: httpx.AsyncClient) -> None:
    responses = [
        await http.get("/v1/models/nope"),
        await http.post(CHAT, json=chat_body(model="nope")),
        await http.post(CHAT, json=chat_body(model="nope", stream=True)),
        await http.post(COMPLETIONS, json=completion_body(model="nope", prompt=["a", "b"])),
    ]
    for response in responses:
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"
        assert error_of(response)["type"] == "invalid_request_error"


async def test_a_request_that_cannot_be_read_is_told_to_the_router(http: httpx.AsyncClient, router: FakeRouter) -> None:
    headers = {"x-request-id": "abc-1"}
    await http.post(CHAT, content=b"{", headers=headers)
    await http.post(CHAT, json=chat_body(temperature="hot"), headers=headers)
    await http.post(CHAT, json=chat_body(), headers={**headers, "x-priority": "now", "authorization": "Bearer key"})
    await http.post(COMPLETIONS, content=b"x" * 20_000, headers=headers)
    await http.post(CHAT, json=chat_body(), headers=headers)

    assert [request_id for request_id, _, _ in router.turned_away_requests] == ["abc-1"] * 4
    tenants = [tenant for _, tenant, _ in router.turned_away_requests]
    assert [tenant == "anonymous" for tenant in tenants] == [True, True, False, True]
    assert router.turned_away_requests[3][2] == "payload_too_large"
    assert len(router.requests) == 1


async def test_a_chat_request_reaches_the_router_in_our_words(http: httpx.AsyncClient, router: FakeRouter) -> None:
    headers = {"x-request-id": "abc-1", "x-priority": "Batch", "x-deadline-ms": "2500", "authorization": "Bearer key"}
    response = await http.post(CHAT, json=chat_body(temperature=0, seed=1), headers=headers)
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    (request,) = router.requests
    assert request.request_id == "abc-1"
    assert request.prompt == Prompt(messages=({"role": "user", "content": "hello"},))
    assert request.sampling == Sampling(temperature=0.0, seed=1)
    assert request.priority is Priority.BATCH
    assert request.timeout_s == 2.5
    assert request.tenant not in ("anonymous", "key")


async def test_each_prompt_of_a_completion_is_a_request_of_its_own(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [speak("a"), speak("b")]
    response = await http.post(COMPLETIONS, json=completion_body(prompt=["x", "y"]), headers={"x-request-id": "r"})
    assert [choice["text"] for choice in response.json()["choices"]] == ["a", "b"]
    assert response.json()["usage"]["prompt_tokens"] == 6
    assert [request.request_id for request in router.requests] == ["r-0", "r-1"]
    assert [request.prompt.text for request in router.requests] == ["x", "y"]


async def test_the_request_id_is_echoed_or_made_up(http: httpx.AsyncClient, router: FakeRouter) -> None:
    for path in ("/health", "/v1/models", "/nope"):
        assert (await http.get(path, headers={"x-request-id": "abc"})).headers.get_list("x-request-id") == ["abc"]
    response = await http.post(CHAT, json=chat_body(stream=True))
    assert response.headers["x-request-id"] == router.requests[0].request_id != ""
    refused = await http.post(CHAT, json=chat_body(n=0), headers={"x-request-id": "abc"})
    assert refused.headers["x-request-id"] == "abc"


async def test_a_host_that_adds_the_request_id_gets_none_from_us(router: FakeRouter, config: IngressConfig) -> None:
    transport = httpx.ASGITransport(build_api(lambda: router, config, echo_request_id=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for response in (await http.get("/health"), await http.get("/nope"), await http.post(CHAT, json=chat_body())):
            assert "x-request-id" not in response.headers
    assert router.requests[0].request_id


@pytest.mark.parametrize(
    ("headers", "param"),
    [({"x-priority": "urgent"}, "X-Priority"), ({"x-deadline-ms": "0"}, "X-Deadline-Ms")],
)
async def test_a_bad_header_is_400(
    http: httpx.AsyncClient, router: FakeRouter, headers: dict[str, str], param: str
) -> None:
    response = await http.post(CHAT, json=chat_body(), headers=headers)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert router.requests == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("content", "param", "code"),
    [
        (b"{", None, "invalid_json"),
        (b'{"model": "test-model"}', "", "missing_required_parameter"),
        (b'{"model": 5, "messages": [{"role": "user", "content": "a"}], "prompt": "a"}', "", ""),
        (b'{"model": "test-model", "foo": 1}', "foo", "unknown_parameter"),
    ],
)
async def test_a_bad_body_is_400_in_openais_shape(
    http: httpx.AsyncClient, path: str, content: bytes, param: str | None, code: str
) -> None:
    response = await http.post(path, content=content, headers={"content-type": "application/json"})
    error = error_of(response)
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert not param or error["param"] == param
    assert not code or error["code"] == code


async def test_more_choices_or_prompts_than_configured_are_refused(http: httpx.AsyncClient) -> None:
    assert error_of(await http.post(CHAT, json=chat_body(n=5)))["param"] == "n"
    assert error_of(await http.post(COMPLETIONS, json=completion_body(prompt=["a"] * 4)))["param"] == "prompt"


async def test_a_body_beyond_the_bound_is_413(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1000

    declared = await http.post(CHAT, content=b"{}", headers={"content-length": "10001"})
    undeclared = await http.post(CHAT, content=endless())
    for response in (declared, undeclared):
        assert response.status_code == 413
        assert error_of(response)["code"] == "payload_too_large"


async def test_a_body_that_is_not_json_by_its_header_is_refused(http: httpx.AsyncClient, router: FakeRouter) -> None:
    response = await http.post(CHAT, content=json.dumps(chat_body()), headers={"content-type": "text/plain"})
    assert response.status_code == 400
    assert error_of(response)["param"] == "Content-Type"
    assert router.requests == []


async def test_an_unknown_path_is_404_and_a_wrong_method_405(http: httpx.AsyncClient) -> None:
    unknown = await http.post("/v1/embeddings", json={})
    assert unknown.status_code == 404
    assert error_of(unknown)["code"] == "unknown_url"
    assert error_of(await http.get("/v1/models/"))["code"] in ("unknown_url", "model_not_found")
    wrong = await http.get(CHAT)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert error_of(wrong)["code"] == "method_not_allowed"


async def test_a_refusal_says_when_to_come_back(http: httpx.AsyncClient, router: FakeRouter) -> None:
    for error, status in ((QueueFull("full", 2.25), 429), (NoEngineAvailable("none", 2.25), 503)):
        router.scripts = [fail(error)]
        response = await http.post(CHAT, json=chat_body(stream=True))
        assert response.status_code == status
        assert response.headers["retry-after"] == "3"
        assert response.headers["retry-after-ms"] == "2250"
        assert response.headers["x-should-retry"] == "true"
        assert error_of(response)["code"] == error.code


@pytest.mark.parametrize(
    ("retry_after_s", "seconds", "milliseconds"),
    [(0.2, "1", "1000"), (1.0004, "2", "1001"), (59.2, "60", "59200"), (900.0, "60", "60000")],
)
async def test_the_advice_when_to_come_back_is_whole_seconds_from_1_to_60(
    http: httpx.AsyncClient, router: FakeRouter, retry_after_s: float, seconds: str, milliseconds: str
) -> None:
    router.scripts = [fail(DeadlineUnattainable("too late", retry_after_s))]
    response = await http.post(CHAT, json=chat_body())
    assert response.status_code == 429
    assert response.headers["retry-after"] == seconds
    assert response.headers["retry-after-ms"] == milliseconds
    assert response.headers["x-should-retry"] == "true"
    assert error_of(response)["code"] == "deadline_unattainable"
    assert error_of(response)["type"] == "rate_limit_error"


async def test_what_was_not_refused_gives_no_advice_when_to_come_back(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [fail(StreamStalled("no token came"))]
    response = await http.post(CHAT, json=chat_body())
    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "true"
    assert "retry-after" not in response.headers


async def test_health_needs_no_router(config: IngressConfig) -> None:
    def no_router() -> FakeRouter:
        raise RuntimeError("not constructed")

    transport = httpx.ASGITransport(build_api(no_router, config), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.head("/health")).status_code == 200
        broken = await http.get("/ready")
    assert broken.status_code == 500
    assert error_of(broken)["message"] == "The server had an internal error."


async def test_ready_is_503_while_nothing_would_be_admitted(http: httpx.AsyncClient, router: FakeRouter) -> None:
    assert (await http.get("/ready")).status_code == 200
    router.admits = False
    assert (await http.get("/ready")).status_code == 503


async def test_metrics_are_the_routers_in_prometheus_text_format(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.metrics = lambda: b"up 1\n"
    response = await http.get("/metrics")
    assert response.content == b"up 1\n"
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_an_unexpected_error_tells_no_details(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[RuntimeError("secret detail")]]
    for stream in (False, True):
        response = await http.post(CHAT, json=chat_body(stream=stream))
        assert response.status_code == 500
        assert "secret" not in response.text
        assert error_of(response)["code"] == "internal_error"
        assert response.headers["x-should-retry"] == "false"


async def test_an_engine_failure_is_500(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [fail(EngineFailed("the engine raised"))]
    response = await http.post(CHAT, json=chat_body())
    assert response.status_code == 500
    assert error_of(response) == {
        "message": "the engine raised",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }


async def test_the_app_works_after_pickling(config: IngressConfig) -> None:
    def late_router() -> FakeRouter:
        return FakeRouter([speak("Hi")])

    api = build_api(late_router, config)
    serve.ingress(api)(type("Host", (), {}))  # Registers Ray's serializers, as deploying does.
    copy: Any = cloudpickle.loads(cloudpickle.dumps(api))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(copy), base_url="http://test") as http:
        response = await http.post(CHAT, json=chat_body())
    assert response.json()["choices"][0]["message"]["content"] == "Hi"
