"""The document and its page. That the page works in a browser is tested in tests/integration/test_reference_page.py."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx
import pytest

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.http.application import Api
from serve_app.ingress.reference.routes import FOLDER, OURS, SWAGGER_UI
from tests.support.fake_router import FakeRouter
from tests.unit.ingress.requests import error_of


async def test_the_document_describes_this_api(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    assert "/v1/chat/completions" in document["paths"]
    assert "servers" not in document
    again = await http.get("/openapi.json", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_below_a_prefix_the_document_says_so(config: IngressConfig) -> None:
    api = build_api(lambda: FakeRouter([]), config)
    transport = httpx.ASGITransport(api, root_path="/pair")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/pair/openapi.json")).json()["servers"] == [{"url": "/pair"}]


async def test_the_document_is_not_made_on_the_event_loop(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers: list[threading.Thread] = []
    make = Api.openapi

    def noted(api: Api) -> dict[str, Any]:
        makers.append(threading.current_thread())
        return make(api)

    monkeypatch.setattr(Api, "openapi", noted)
    for _ in range(2):
        assert (await http.get("/openapi.json")).status_code == 200
    assert len(makers) == 1 and makers[0] is not threading.main_thread()


async def test_every_address_of_the_page_is_ours_and_is_served(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "http" not in policy
    script = (await http.get("/docs/docs.js")).text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.text) + re.findall(r'url: "([^"]*)"', script)
    assert {"docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"} <= set(addresses)
    for address in addresses:
        assert "//" not in address, "another host"
        assert (await http.get(f"/{address}")).status_code == 200, address
    assert "//" not in re.sub(r"^ *//.*$| // .*$", "", script, flags=re.MULTILINE)
    assert not re.search(r"<script[^>]*>[^<]", page.text), "the policy runs no script that is written in the page"


async def test_the_style_sheet_loads_nothing_but_what_it_holds(http: httpx.AsyncClient) -> None:
    style = (await http.get("/docs/swagger-ui.css")).text
    assert all(loaded.strip("\"'").startswith("data:") for loaded in re.findall(r"url\(([^)]{0,20})", style))
    assert "@import" not in style


@pytest.mark.parametrize("name", [*OURS, *SWAGGER_UI])
async def test_each_file_has_its_type(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/docs/{name}")
    assert answer.headers["content-type"] == (OURS | SWAGGER_UI)[name]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_file_lies_there_that_is_not_served() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(OURS)


@pytest.mark.parametrize("path", ["/docs/", "/docs/redoc.standalone.js", "/docs/..%2froutes.py"])
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    assert error_of(await http.get(path))["code"] == "unknown_url"
