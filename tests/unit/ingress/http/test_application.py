"""The application itself: from a request to its handler, and nothing in between."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from serve_app.ingress.http.application import Api


def on_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return PlainTextResponse(type(error).__name__, status, getattr(error, "headers", None))


@pytest.fixture
def api() -> Api:
    return Api(on_error, lambda request: None)


def client_of(api: Api) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


async def test_a_handler_gets_its_path_parameters(api: Api) -> None:
    async def handler(request: Request) -> Response:
        return PlainTextResponse(request.path_params["name"])

    api.route_to("/of/{name}", handler, "GET")
    async with client_of(api) as client:
        assert (await client.get("/of/me")).text == "me"
        assert (await client.get("/of/me/")).status_code == 404, "not another address of the same"


async def test_a_wrong_method_is_told_what_the_path_takes(api: Api) -> None:
    async def handler(request: Request) -> Response:
        return PlainTextResponse(request.method)

    api.route_to("/one", handler, "POST")
    api.route_to("/one", handler, "DELETE")
    async with client_of(api) as client:
        refused = await client.get("/one")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST, DELETE")
        assert (await client.delete("/one")).text == "DELETE"


async def test_what_a_handler_raises_becomes_an_answer(api: Api) -> None:
    async def handler(request: Request) -> Response:
        raise KeyError("no")

    api.route_to("/", handler, "GET")
    async with client_of(api) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.text) == (500, "KeyError")


async def test_a_socket_to_an_unknown_path_is_refused(api: Api) -> None:
    async def handler(request: Request) -> Response:
        raise AssertionError("it takes no sockets")

    api.route_to("/one", handler, "GET")
    for path in ("/one", "/other"):
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        await api({"type": "websocket", "path": path, "headers": [], "subprotocols": []}, receive, send)
        assert [message["type"] for message in sent] == ["websocket.close"], path


async def test_a_response_that_streams_has_few_callers_and_holds_no_request(api: Api) -> None:
    """Each of thousands of open streams pays for what stays with it."""
    requests: list[weakref.ref[Request]] = []
    seen: dict[str, Any] = {}

    class Streams(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            gc.collect()
            seen["requests alive"] = [each() for each in requests if each() is not None]
            frames = [frame.function for frame in inspect.stack()]
            seen["between"] = frames.index("run_it") - frames.index("__call__") - 1
            await super().__call__(scope, receive, send)

    async def handler(request: Request) -> Response:
        requests.append(weakref.ref(request))
        return Streams()

    async def run_it() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            pass

        await api({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive, send)

    api.route_to("/", handler, "GET")
    await run_it()
    assert requests and seen == {"requests alive": [], "between": 1}
