"""`/openapi.json`: complete, and held to the routes and to the error tree. Real answers are held to it elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from serve_app.core.errors import (
    ClientTooSlow,
    EngineFull,
    OriginNotAllowed,
    Rejected,
    ReplicaLeaving,
    ServeAppError,
    WrongReplica,
)
from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.http.operation import ALL_ERRORS
from tests.support.fake_router import FakeRouter
from tests.unit.ingress.requests import CHAT, error_of

API = build_api(lambda: FakeRouter([]), IngressConfig())
DOCUMENT = API.openapi()
UNDESCRIBED = {"/openapi.json", "/docs", "/docs/{name}"}
"""The document itself, and the page that shows it."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def every_error(root: type[ServeAppError]) -> Iterator[type[ServeAppError]]:
    if root.__module__ == ServeAppError.__module__:  # not the channel's own, and those that tests make up
        yield root
    for child in root.__subclasses__():
        yield from every_error(child)


def test_every_route_is_described() -> None:
    declared = {
        (method, route.path.replace(":path", ""))
        for route in API.routes
        if isinstance(route, Route) and route.path not in UNDESCRIBED
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {(method, path) for method, path, _ in operations()} == declared


def test_every_operation_has_name_tag_text_and_answers() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for method, path, operation in operations():
        where = f"{method} {path}"
        assert set(operation["tags"]) <= tags, where
        assert operation["summary"] and operation["description"], where
        assert operation["responses"]["200"]["content"], where
        assert ("requestBody" in operation) == (method == "POST" and not path.endswith("/cancel")), where


def test_every_reference_resolves_and_every_schema_is_used() -> None:
    named = {reference.removeprefix("#/components/schemas/") for reference in references(DOCUMENT)}
    assert named == set(DOCUMENT["components"]["schemas"])


def test_the_documented_errors_are_those_of_the_tree() -> None:
    inside = {Rejected, EngineFull, WrongReplica, ClientTooSlow, ReplicaLeaving, OriginNotAllowed}
    assert set(ALL_ERRORS) == set(every_error(ServeAppError)) - inside
    responses = DOCUMENT["paths"][CHAT]["post"]["responses"]
    assert set(responses) == {"200", *(str(error.status) for error in ALL_ERRORS)}
    for error in ALL_ERRORS:
        assert f"`{error.code}`" in responses[str(error.status)]["description"], error


def test_the_document_is_made_once() -> None:
    assert API.openapi() is DOCUMENT


STREAMED = [
    path for method, path, operation in operations() if method == "GET" and "text/event-stream" in str(operation)
]


@pytest.mark.parametrize("path", STREAMED)
async def test_a_head_request_generates_and_reads_nothing(
    http: httpx.AsyncClient, router: FakeRouter, path: str
) -> None:
    response = await http.head(path.replace("{", "").replace("}", ""), params={"prompt": "x"})
    assert response.status_code == 405
    assert response.headers["allow"].split(", ")[0] == "GET"
    assert router.requests == []


def test_both_prompts_in_the_address_are_among_them() -> None:
    assert {"/stream", "/v1/chat/completions/stream"} <= set(STREAMED)


async def test_an_unknown_file_of_the_page_has_an_error_body(http: httpx.AsyncClient) -> None:
    assert error_of(await http.get("/web/nothing.js"))["code"] == "unknown_url"
