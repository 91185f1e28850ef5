"""What a page of another site can do to a server that its visitor can reach: nothing, unless it is allowed."""

from __future__ import annotations

import json

import httpx
import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.protocol import State
from websockets.typing import Origin

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.http.context import EXPOSED_HEADERS
from serve_app.ingress.http.rate_limit_headers import RATE_LIMIT_HEADERS
from tests.support.fake_router import FakeRouter
from tests.unit.ingress.requests import CHAT, chat_body, error_of
from tests.unit.ingress.websocket.client import CHAT_SOCKET, PLAIN_SOCKET, SocketClient

FRIEND = "https://app.example"
STRANGER = "https://evil.example"
GENERATING_GETS = ("/stream", "/v1/chat/completions/stream")
OUR_CLIENTS_HEADERS = (
    "authorization, content-type, x-priority, x-deadline-ms, x-stream-resume, last-event-id, idempotency-key, prefer"
)
SDK_HEADERS = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"


@pytest.fixture
def config() -> IngressConfig:
    return IngressConfig(allowed_origins=frozenset({FRIEND}))


def preflight(origin: str, method: str = "POST", headers: str = OUR_CLIENTS_HEADERS) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }


async def handshake(path: str, config: IngressConfig, router: FakeRouter | None = None, **headers: str) -> SocketClient:
    """A socket that asked to be accepted, said nothing and left."""
    headers = {"host": "llm.example:8000", **headers}
    async with SocketClient(router or FakeRouter([]), path, config=config, headers=headers) as client:
        pass
    return client


# --- preflights


@pytest.mark.parametrize("asked", [OUR_CLIENTS_HEADERS, SDK_HEADERS])
async def test_an_allowed_page_may_send_what_clients_send(http: httpx.AsyncClient, asked: str) -> None:
    answer = await http.options(CHAT, headers=preflight(FRIEND, headers=asked))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-headers"] == asked
    assert answer.headers["vary"] == "Origin"
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_tells_all_methods_of_a_path(http: httpx.AsyncClient) -> None:
    answer = await http.options("/v1/streams/any", headers=preflight(FRIEND, "DELETE"))
    assert answer.headers["access-control-allow-methods"] == "GET, DELETE"


async def test_the_preflight_of_any_other_page_is_refused(http: httpx.AsyncClient) -> None:
    for origin in (STRANGER, f"{FRIEND}.evil.example", FRIEND.replace("https", "http"), "null"):
        answer = await http.options(CHAT, headers=preflight(origin))
        assert answer.status_code == 403
        assert error_of(answer)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers


async def test_options_without_a_page_tells_the_methods(http: httpx.AsyncClient) -> None:
    answer = await http.options(CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    assert (await http.options("/nothing")).status_code == 404


async def test_strange_names_of_headers_are_not_echoed(http: httpx.AsyncClient) -> None:
    answer = await http.options(CHAT, headers=preflight(FRIEND, headers="x-a: b"))
    assert "access-control-allow-headers" not in answer.headers


# --- answers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_allowed_page_may_read_answers_and_their_headers(http: httpx.AsyncClient, stream: bool) -> None:
    for body in (chat_body(stream=stream), chat_body(model="nope", stream=stream)):
        answer = await http.post(CHAT, json=body, headers={"origin": FRIEND})
        assert answer.headers["access-control-allow-origin"] == FRIEND
        assert answer.headers["vary"] == "Origin"
        assert answer.headers["access-control-expose-headers"] == EXPOSED_HEADERS
    assert {"x-request-id", "retry-after", "retry-after-ms", *RATE_LIMIT_HEADERS} <= set(EXPOSED_HEADERS.split(", "))


async def test_no_other_page_may_read_an_answer(http: httpx.AsyncClient) -> None:
    for origin in (STRANGER, "http://test"):
        answer = await http.post(CHAT, json=chat_body(), headers={"origin": origin})
        assert "access-control-allow-origin" not in answer.headers
    assert "vary" not in (await http.post(CHAT, json=chat_body())).headers


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {}])
async def test_a_body_that_browsers_send_unasked_is_refused(
    http: httpx.AsyncClient, router: FakeRouter, headers: dict[str, str]
) -> None:
    """`fetch(url, {method: "POST", mode: "no-cors", body: new Blob([...])})` sends no type at all."""
    content = json.dumps(chat_body()).encode()
    answer = await http.post(CHAT, content=content, headers={**headers, "origin": STRANGER})
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_content_type"
    assert router.requests == []


async def test_every_origin_can_be_allowed(router: FakeRouter) -> None:
    api = build_api(lambda: router, IngressConfig(allowed_origins=frozenset({"*"})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        assert (await http.options(CHAT, headers=preflight(STRANGER))).status_code == 204
        answer = await http.get("/v1/models", headers={"origin": STRANGER})
        assert answer.headers["access-control-allow-origin"] == STRANGER


@pytest.mark.parametrize("origin", ["https://app.example/", "app.example", "ftp://a", "https://a b", ""])
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    with pytest.raises(ValidationError, match="allowed_origins"):
        IngressConfig(allowed_origins=frozenset({origin}))


# --- GETs that generate


@pytest.mark.parametrize("path", GENERATING_GETS)
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "same-site", "sec-fetch-dest": "script"},
        {"origin": STRANGER},
        {"sec-fetch-site": "none", "sec-purpose": "prefetch;prerender"},
    ],
)
async def test_a_page_of_another_site_makes_nobody_generate(
    http: httpx.AsyncClient, router: FakeRouter, path: str, headers: dict[str, str]
) -> None:
    answer = await http.get(path, params={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403
    assert error_of(answer)["code"] == "origin_not_allowed"
    assert router.requests == []
    assert [code for *_, code in router.turned_away_requests] == ["origin_not_allowed"]


@pytest.mark.parametrize("path", GENERATING_GETS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none", "sec-fetch-dest": "document"},
        {"sec-fetch-site": "same-origin", "origin": "http://test"},
        {"sec-fetch-site": "cross-site", "origin": FRIEND},
    ],
)
async def test_people_programs_and_allowed_pages_may_ask(
    http: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    assert (await http.get(path, params={"prompt": "x"}, headers=headers)).status_code == 200


async def test_they_can_be_turned_off(router: FakeRouter) -> None:
    api = build_api(lambda: router, IngressConfig(get_streams=False))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        for path in GENERATING_GETS:
            assert (await http.get(path, params={"prompt": "x"})).status_code == 404
            assert path not in (await http.get("/openapi.json")).json()["paths"]


# --- sockets


@pytest.mark.parametrize("path", [CHAT_SOCKET, PLAIN_SOCKET])
@pytest.mark.parametrize(
    "origin", [STRANGER, "null", "https://llm.example:9000", "https://llm.example:8000.evil.example"]
)
async def test_a_socket_of_another_page_is_refused_before_it_is_accepted(
    path: str, origin: str, config: IngressConfig
) -> None:
    router = FakeRouter([])
    client = await handshake(path, config, router, origin=origin)
    assert client.accepted == {} and client.closed is not None
    assert [code for *_, code in router.turned_away_requests] == ["origin_not_allowed"]


@pytest.mark.parametrize("path", [CHAT_SOCKET, PLAIN_SOCKET])
@pytest.mark.parametrize("origin", [None, FRIEND, "https://llm.example:8000", "http://LLM.example:8000"])
async def test_a_socket_of_an_own_or_allowed_page_or_a_program_is_accepted(
    path: str, origin: str | None, config: IngressConfig
) -> None:
    client = await handshake(path, config, FakeRouter([]), **({} if origin is None else {"origin": origin}))
    assert client.accepted


@pytest.mark.parametrize(
    ("origin", "host"),
    [("https://llm.example", "llm.example"), ("https://llm.example", "llm.example:443"), ("http://a:80", "a")],
)
async def test_default_ports_are_no_difference(origin: str, host: str) -> None:
    assert (await handshake(CHAT_SOCKET, IngressConfig(), origin=origin, host=host)).accepted


async def test_the_refused_handshake_is_answered_with_403(base_url: str) -> None:
    address = base_url.replace("http://", "ws://").removesuffix("/v1") + CHAT_SOCKET
    with pytest.raises(InvalidStatus) as refused:
        await connect(address, origin=Origin(STRANGER), proxy=None)
    assert refused.value.response.status_code == 403
    async with connect(address, origin=Origin(FRIEND), proxy=None) as socket:
        assert socket.state is State.OPEN
