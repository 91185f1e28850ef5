"""One check decides who is served, on each route and protocol. Routes and methods come from their own tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from starlette.routing import Route, WebSocketRoute

from serve_app.core.request import Priority
from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.proto import chat_pb2, llm_pb2
from serve_app.ingress.grpc.services import build_grpc
from serve_app.ingress.identity import Identity
from serve_app.router.serve.grpc_methods import GrpcMethods
from tests.support.fake_router import FakeRouter, speak
from tests.support.grpc_calls import FakeContext, FakeRequests
from tests.support.identities import Known, Nobody
from tests.unit.ingress.requests import CHAT, chat_body, error_of
from tests.unit.ingress.websocket.client import CHAT_SOCKET, PLAIN_SOCKET, SocketClient

OPEN_PATHS = {"/health", "/ready", "/metrics", "/", "/web/{name}", "/openapi.json", "/docs", "/docs/{name}"}
API = build_api(lambda: FakeRouter([speak("no")]), IngressConfig(), Nobody())
ROUTES = [(method, route.path) for route in API.routes if isinstance(route, Route) for method in route.methods or ()]
SOCKETS = [route.path for route in API.routes if isinstance(route, WebSocketRoute)]
METHODS = [
    method
    for file in (chat_pb2, llm_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if hasattr(GrpcMethods, method.name)
]
OPEN_METHODS = {"Check", "Watch"}


async def ask(method: str, path: str) -> tuple[FakeRouter, httpx.Response]:
    router = FakeRouter([speak("no")])
    transport = httpx.ASGITransport(build_api(lambda: router, IngressConfig(), Nobody()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        address = (
            path.replace("{model_id:path}", "test-model")
            .replace("web/{name}", "web/page.css")
            .replace("{name}", "docs.js")
        )
        headers = {"authorization": "Bearer wrong"}
        return router, await client.request(method, address.replace("{", "").replace("}", ""), headers=headers)


# --- HTTP


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1] not in OPEN_PATHS])
async def test_each_route_refuses_who_is_not_known(method: str, path: str) -> None:
    router, response = await ask(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        error = error_of(response)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert [code for *_, code in router.turned_away_requests] == ["invalid_api_key"]
    assert router.requests == []


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1] in OPEN_PATHS])
async def test_what_says_nothing_about_anybody_is_open(method: str, path: str) -> None:
    _, response = await ask(method, path)
    assert response.status_code == 200


def test_the_open_routes_are_exactly_these() -> None:
    assert API.open_paths == OPEN_PATHS


async def test_unknown_paths_and_methods_need_nobody() -> None:
    assert (await ask("GET", "/nothing"))[1].status_code == 404
    assert (await ask("PUT", CHAT))[1].status_code == 405


async def test_a_request_is_authenticated_once() -> None:
    router, authenticator = FakeRouter([speak("Hi")]), Known(key=Identity("acme"))
    transport = httpx.ASGITransport(build_api(lambda: router, IngressConfig(), authenticator))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"authorization": "Bearer key", "idempotency-key": "once"}
        assert (await client.post(CHAT, json=chat_body(), headers=headers)).status_code == 200
        await client.post("/v1/responses", json={"model": "test-model", "input": "hi"}, headers=headers)
    assert authenticator.asked == ["key", "key"]
    assert [request.tenant for request in router.requests] == ["acme", "acme"]


async def test_models_out_of_scope_are_not_listed() -> None:
    router, known = FakeRouter([speak("Hi")], ("small", "large")), Known(key=Identity("t", models=frozenset({"large"})))
    transport = httpx.ASGITransport(build_api(lambda: router, IngressConfig(), known))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"authorization": "Bearer key"}
    ) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["large"]
        assert (await client.get("/v1/models/small")).status_code == 404
        assert (await client.post(CHAT, json=chat_body(model="small"))).status_code == 404
        assert (await client.get("/stream?prompt=hi")).status_code == 200
    assert [request.model for request in router.requests] == ["large"]


# --- sockets


def test_all_sockets_are_tried() -> None:
    assert set(SOCKETS) == {CHAT_SOCKET, PLAIN_SOCKET}


@pytest.mark.parametrize("path", SOCKETS)
async def test_each_socket_refuses_a_wrong_token_and_closes(path: str) -> None:
    router = FakeRouter([speak("no")])
    headers = {"authorization": "Bearer wrong"}
    async with SocketClient(router, path, headers=headers, authenticator=Nobody()) as client:
        answer = await client.hear()
        await client.ended()
    assert (answer["type"], answer["error"]["code"]) == ("error", "invalid_api_key")
    assert client.closed == {"type": "websocket.close", "code": 1008, "reason": "Incorrect API key provided."}
    assert [code for *_, code in router.turned_away_requests] == ["invalid_api_key"]


async def test_a_chat_socket_without_a_token_may_present_one_in_a_message() -> None:
    router, known = FakeRouter([speak("Hi")]), Known(key=Identity("acme", Priority.BATCH))
    async with SocketClient(router, authenticator=known) as client:
        client.ask("early")
        refused = await client.hear()
        assert (refused["type"], refused["id"], refused["error"]["code"]) == ("error", "early", "invalid_api_key")
        client.say({"type": "auth", "token": "wrong"})
        refused = await client.hear()
        assert (refused["type"], refused["error"]["code"]) == ("error", "invalid_api_key")
        assert "id" not in refused
        client.say({"type": "auth", "token": "key"})
        client.ask("late")
        assert (await client.hear_until("done", "error"))[-1]["type"] == "done"
    assert [(request.tenant, request.priority) for request in router.requests] == [("acme", Priority.BATCH)]
    assert known.asked == [None, "wrong", "key"]


async def test_a_chat_socket_without_a_token_resumes_nothing() -> None:
    router = FakeRouter([speak("Hi")])
    async with SocketClient(router, authenticator=Nobody()) as client:
        client.say({"type": "resume", "id": "a", "stream_id": "b"})
        assert (await client.hear())["error"]["code"] == "invalid_api_key"


# --- gRPC


async def call(method: MethodDescriptor, router: FakeRouter, context: FakeContext) -> list[Any]:
    services: Any = build_grpc(router, IngressConfig(), Nobody())
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name).removeprefix("_")
    request = getattr(method.input_type, "_concrete_class")()  # noqa: B009  # mypy knows no such attribute
    asked = FakeRequests(request) if method.client_streaming else request
    if method.name == "Watch":
        states: AsyncIterator[Any] = services.watch(request)
        return [await anext(states)]
    handler = getattr(services, name)
    if method.server_streaming:
        return [message async for message in handler(asked, context)]
    return [await handler(asked, context)]


@pytest.mark.parametrize("method", [each for each in METHODS if each.name not in OPEN_METHODS], ids=lambda m: m.name)
async def test_each_grpc_method_refuses_who_is_not_known(method: MethodDescriptor) -> None:
    router, context = FakeRouter([speak("no")]), FakeContext(("authorization", "Bearer wrong"))
    messages = await call(method, router, context)
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert len(messages) == 1
    if method.server_streaming:
        assert messages[0].error.code == "invalid_api_key"
    assert [code for *_, code in router.turned_away_requests] == ["invalid_api_key"]
    assert router.requests == []


@pytest.mark.parametrize("method", [each for each in METHODS if each.name in OPEN_METHODS], ids=lambda m: m.name)
async def test_health_is_open(method: MethodDescriptor) -> None:
    context = FakeContext()
    assert (await call(method, FakeRouter([]), context))[0].status == health_pb2.HealthCheckResponse.SERVING
    assert context.code is None
