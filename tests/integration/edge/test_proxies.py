"""The shipped proxies in front of a served application: a real nginx and a real workerd."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import pytest

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from tests.integration.edge.applications import EDGE, FASTER
from tests.integration.edge.places import all_places_taken, until_queued
from tests.support import proxies
from tests.support.chat_socket import ChatSocket
from tests.support.fault_proxy import CutPoint, FaultProxy, after_nth, never
from tests.support.grpc_client import GrpcClient, ask_for
from tests.support.proxies import Nginx
from tests.support.resuming_reader import read_resuming
from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import API_KEY, ServedApp, chat
from tests.support.sse_client import StreamedAnswer, read_stream

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
NGINX_DEFAULT_TIMEOUT_S = 60.0
FRAME = b"\n\n"


def body(max_tokens: int, content: str = "Tell me something.", **further: Any) -> dict[str, Any]:
    """A request that always gets the same answer."""
    return chat("steady", max_tokens, content, temperature=0.0, **further)


@pytest.fixture(scope="module")
def nginx(edge_cluster: ServeCluster) -> Iterator[Nginx]:
    with proxies.nginx(_address(edge_cluster.url), edge_cluster.grpc_target) as running:
        yield running


@pytest.fixture(scope="module")
def workerd_url(edge_cluster: ServeCluster) -> Iterator[str]:
    with proxies.workerd(_address(edge_cluster.url)) as url:
        yield url


@pytest.fixture(params=["nginx", "workerd"])
def proxy_url(request: pytest.FixtureRequest) -> str:
    if request.param == "nginx":
        return f"http://{request.getfixturevalue('nginx').http}"
    url: str = request.getfixturevalue("workerd_url")
    return url


@pytest.fixture
async def through_nginx(edge: ServedApp, nginx: Nginx) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(edge, target=nginx.grpc) as client:
        yield client


async def test_tokens_arrive_one_by_one(edge: ServedApp, nginx: Nginx, workerd_url: str) -> None:
    urls = {"direct": edge.url, "nginx": f"http://{nginx.http}", "workerd": workerd_url}
    # At the same time, so that what else the machine does is the same for all.
    gaps = dict(zip(urls, await asyncio.gather(*(_gaps(edge.http, url) for url in urls.values())), strict=True))
    shown = {way: (statistics.median(each), _p90(each)) for way, each in gaps.items()}
    print({way: tuple(round(1000 * value, 1) for value in values) for way, values in shown.items()}, "ms: p50, p90")
    for way in ("nginx", "workerd"):
        for through, direct in zip(shown[way], shown["direct"], strict=True):
            assert through == pytest.approx(direct, rel=0.2), f"{way}: {shown}"


async def test_ids_and_headers_pass(edge: ServedApp, proxy_url: str) -> None:
    answer = await edge.http.post(
        f"{proxy_url}/v1/chat/completions", json=body(3), headers={"X-Request-ID": "my-own-id"}
    )
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "my-own-id"
    assert "x-ratelimit-limit-requests" in answer.headers
    refused = await edge.http.post(f"{proxy_url}/v1/chat/completions", json={**body(3), "model": "none"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert refused.headers["x-request-id"]


async def test_what_operators_see_is_not_shown(edge: ServedApp, proxy_url: str) -> None:
    assert (await edge.http.get(f"{proxy_url}/metrics")).status_code == 404
    assert (await edge.http.get(f"{proxy_url}/ready")).status_code == 200


async def test_prompts_are_not_logged(edge: ServedApp, nginx: Nginx) -> None:
    headers = {"X-Request-ID": "logged-id"}
    answer = await edge.http.get(f"http://{nginx.http}/stream?prompt=my+secret&max_tokens=3", headers=headers)
    assert answer.status_code == 200
    assert "logged-id" in nginx.access_log
    assert "secret" not in nginx.access_log


async def test_leaving_a_stream_ends_its_generation(edge: ServedApp, proxy_url: str) -> None:
    reading = asyncio.create_task(read_stream(edge.http, f"{proxy_url}/v1/chat/completions", body(60_000)))
    await edge.until_generating(1)
    reading.cancel()
    await asyncio.wait([reading])
    await edge.until_idle(ABORTED_WITHIN_S)


async def test_whoever_is_cut_off_before_the_first_token_leaves_the_queue(edge: ServedApp, proxy_url: str) -> None:
    async with all_places_taken(edge) as queued, _cutting(proxy_url) as cutting:
        url = f"http://127.0.0.1:{cutting.port}/v1/chat/completions"
        waiting = [asyncio.create_task(edge.http.post(url, json=chat("narrow", 5))) for _ in range(3)]
        await until_queued(edge, queued + 3)
        assert cutting.cut_now() == 3
        await asyncio.gather(*waiting, return_exceptions=True)
        await until_queued(edge, queued)


async def test_leaving_before_the_first_token_through_nginx_leaves_the_queue(edge: ServedApp, nginx: Nginx) -> None:
    # workerd does not look for a connection that is merely closed before it has something to write.
    async with all_places_taken(edge) as queued:
        url = f"http://{nginx.http}/v1/chat/completions"
        waiting = [asyncio.create_task(edge.http.post(url, json=chat("narrow", 5))) for _ in range(3)]
        await until_queued(edge, queued + 3)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await until_queued(edge, queued)


async def test_a_stream_that_is_cut_is_resumed(edge: ServedApp, proxy_url: str) -> None:
    request = body(60, "Tell me a story.")
    whole = await edge.stream(request)
    assert whole.complete
    async with _cutting(proxy_url, after_nth(FRAME, 11), after_nth(FRAME, 20, and_bytes=7), never) as cutting:
        resumed = await read_resuming(f"http://127.0.0.1:{cutting.port}/v1/chat/completions", request)
    assert (resumed.connections, cutting.cuts) == (3, 2)
    assert resumed.answer.text == whole.text
    assert resumed.position == 60


async def test_sockets_pass(edge: ServedApp, proxy_url: str) -> None:
    expected = {name: (await edge.stream(body(30, name))).text for name in ("a", "b")}
    async with ChatSocket(proxy_url, api_key=API_KEY) as socket:
        for name in expected:
            await socket.ask(name, body(30, name))
        answers = await socket.read_all(list(expected))
    assert {name: answer.text for name, answer in answers.items()} == expected
    assert len(answers["a"].messages) > 25, "tokens come one by one"


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_leaving_a_socket_ends_its_generations(edge: ServedApp, proxy_url: str, way: str) -> None:
    async with ChatSocket(proxy_url, api_key=API_KEY) as socket:
        for name in "ab":
            await socket.ask(name, body(60_000))
        await edge.until_generating(2)
        if way == "reset":
            socket.reset()
        else:
            await socket.connection.close()
        await edge.until_idle(ABORTED_WITHIN_S)


async def test_grpc_passes_through_nginx(edge: ServedApp, through_nginx: GrpcClient) -> None:
    expected = (await edge.stream(body(30))).text
    messages: list[ChatResponse] = []
    arrivals: list[float] = []
    call = through_nginx.chat.StreamChat(ask_for("steady", 30), metadata=through_nginx.metadata)
    async for message in call:
        messages.append(message)
        arrivals.append(time.monotonic())
    assert "".join(message.token for message in messages) == expected
    assert statistics.median(_differences(arrivals)) > 0.01, "tokens come one by one"


async def test_three_prompts_share_a_call_through_nginx(through_nginx: GrpcClient) -> None:
    call = through_nginx.chat.BiStreamChat(metadata=through_nginx.metadata)
    last: dict[str, ChatResponse] = {}
    # Each prompt follows the answer to the one before: nothing waits for the end of the request.
    for name in ("a", "b", "c"):
        await call.write(ask_for("steady", 10, name, id=name))
        while name not in last:
            message = await call.read()
            assert isinstance(message, ChatResponse)
            if message.done:
                last[message.id] = message
    await call.done_writing()
    assert {name: message.finish_reason for name, message in last.items()} == dict.fromkeys("abc", "length")


async def test_leaving_a_call_through_nginx_ends_its_generation(edge: ServedApp, through_nginx: GrpcClient) -> None:
    call = through_nginx.chat.StreamChat(ask_for("steady", 60_000), metadata=through_nginx.metadata)
    await call.read()
    await edge.until_generating(1)
    call.cancel()
    await edge.until_idle(ABORTED_WITHIN_S)


async def test_a_server_that_is_gone_is_told_in_the_words_of_each_protocol() -> None:
    nowhere = "127.0.0.1:9"
    with proxies.nginx(nowhere, nowhere) as running, proxies.workerd(nowhere) as worker:
        async with grpc.aio.insecure_channel(running.grpc) as channel:
            call = channel.unary_stream(
                "/ChatService/StreamChat",
                request_serializer=ChatRequest.SerializeToString,
                response_deserializer=ChatResponse.FromString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for _ in call(ChatRequest(prompt="x"), timeout=20.0):
                    pass
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failure.value.details() == "the server cannot be reached"
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"http://{running.http}/v1/chat/completions", json={})).status_code == 502
            answer = await client.post(f"{worker}/v1/chat/completions", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "origin_unreachable")


@pytest.mark.parametrize(
    ("offer", "passed"), [("h2c", None), ("websocket", "websocket"), ("WebSocket", "websocket"), (None, None)]
)
async def test_of_what_clients_offer_to_speak_only_websocket_goes_on(offer: str | None, passed: str | None) -> None:
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    offered = (
        {} if offer is None else {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": offer, "HTTP2-Settings": "A"}
    )
    with proxies.nginx(f"127.0.0.1:{port}", "127.0.0.1:9") as running:
        async with server, httpx.AsyncClient(trust_env=False) as client:
            answered = await client.post(f"http://{running.http}/v1/completions", json={"a": 1}, headers=offered)
    assert answered.status_code == 200
    lines = heads[0].splitlines()
    assert [line for line in lines if line.startswith("upgrade:")] == ([f"upgrade: {passed}"] if passed else [])
    assert ("connection: upgrade" in lines) == (passed is not None)
    assert "http2-settings" not in heads[0]


async def test_tls_carries_all_protocols_on_one_port(edge: ServedApp, edge_cluster: ServeCluster) -> None:
    with proxies.nginx(_address(edge_cluster.url), edge_cluster.grpc_target, ["tls.conf"]) as running:
        certificate = running.folder / "nginx" / "certificate.pem"
        async with httpx.AsyncClient(
            trust_env=False, verify=ssl.create_default_context(cafile=certificate), timeout=30.0
        ) as client:
            answer = await read_stream(client, f"https://{running.tls}/v1/chat/completions", body(10))
        assert answer.complete
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        async with grpc.aio.secure_channel(running.tls, credentials) as channel:
            call = channel.unary_stream(
                "/ChatService/StreamChat",
                request_serializer=ChatRequest.SerializeToString,
                response_deserializer=ChatResponse.FromString,
            )
            metadata = (("application", edge.name),)
            messages = [each async for each in call(ask_for("steady", 10), metadata=metadata, timeout=20.0)]
        assert "".join(message.token for message in messages) == answer.text


async def test_the_rate_limit_refuses_in_the_words_of_the_api(edge: ServedApp, edge_cluster: ServeCluster) -> None:
    tight = [("rate=20r/s", "rate=1r/m"), ("burst=40", "burst=1")]
    limited = proxies.nginx(_address(edge_cluster.url), edge_cluster.grpc_target, ["rate_limit.conf"], replaced=tight)
    with limited as running:
        url = f"http://{running.http}"
        answers = [await edge.http.post(f"{url}/v1/chat/completions", json=body(2)) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "rate_limited"
        assert answers[2].headers["retry-after"] == "5"
        for _ in range(3):
            assert (await edge.http.get(f"{url}/v1/models")).status_code == 200
        async with GrpcClient(edge, target=running.grpc) as client:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.stream(ask_for("steady", 2))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_worker_asks_its_rate_limiter_for_each_tenant(edge: ServedApp, edge_cluster: ServeCluster) -> None:
    with proxies.workerd(_address(edge_cluster.url), limit=1) as url:
        answers = [await edge.http.post(f"{url}/v1/chat/completions", json=body(2)) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json()["error"]["code"] == "rate_limited"
        assert answers[1].headers["retry-after"]
        other = {"Authorization": "Bearer other"}
        assert (await edge.http.post(f"{url}/v1/chat/completions", json=body(2), headers=other)).status_code == 200
        assert (await edge.http.get(f"{url}/v1/models")).status_code == 200


async def test_a_first_token_after_the_read_timeout_arrives_through_nginx(
    edge: ServedApp, edge_cluster: ServeCluster
) -> None:
    # nginx's default, and our own defaults in `EDGE`, on a clock that is faster.
    timeout_s = NGINX_DEFAULT_TIMEOUT_S / FASTER
    quick = [
        ("proxy_read_timeout 1h;", f"proxy_read_timeout {timeout_s:g}s;"),
        ("proxy_send_timeout 60s;", f"proxy_send_timeout {timeout_s:g}s;"),
        ("    send_timeout 60s;", f"    send_timeout {timeout_s:g}s;"),
    ]
    impatient = proxies.nginx(_address(edge_cluster.url), edge_cluster.grpc_target, replaced=quick)
    with impatient as running:
        assert f"proxy_read_timeout {timeout_s:g}s;" in (running.folder / "nginx" / "http.conf").read_text()
        await _first_token_comes_late(edge, running, timeout_s)


@pytest.mark.nightly
async def test_a_first_token_after_a_minute_arrives_through_nginx_with_its_default_timeouts(
    edge: ServedApp, edge_cluster: ServeCluster
) -> None:
    defaults = proxies.nginx(_address(edge_cluster.url), edge_cluster.grpc_target, without=r"\w+_timeout")
    with defaults as running:
        await _first_token_comes_late(edge, running, NGINX_DEFAULT_TIMEOUT_S)


async def _first_token_comes_late(edge: ServedApp, nginx: Nginx, timeout_s: float) -> None:
    """A stream that waits for longer than nginx is patient with a silent server, and than our headers are held back."""
    late = StreamedAnswer()
    # The client is more patient than nginx.
    async with httpx.AsyncClient(trust_env=False, timeout=300.0) as patient:
        async with all_places_taken(edge):
            url = f"http://{nginx.http}/v1/chat/completions"
            reading = asyncio.create_task(read_stream(patient, url, chat("narrow", 5), late))
            # The first comment comes with the headers: only those after it keep the connection for longer.
            await asyncio.sleep(EDGE["args"]["ingress"]["header_hold_s"] + timeout_s + 2.0)
            assert not late.chunks
        await reading
    assert late.complete, late
    assert len([comment for comment in late.comments if comment.startswith(": queued")]) > 3


async def _gaps(client: httpx.AsyncClient, url: str) -> list[float]:
    """Seconds between the pieces in which an answer of a hundred tokens arrives."""
    arrivals: list[float] = []
    async with client.stream("POST", f"{url}/v1/chat/completions", json={**body(100), "stream": True}) as response:
        async for _ in response.aiter_raw():
            arrivals.append(time.monotonic())
    return _differences(arrivals)


def _cutting(url: str, *plans: CutPoint) -> FaultProxy:
    """In front of `url`; cuts each connection by its plan."""
    address = httpx.URL(url)
    return FaultProxy(address.host, address.port or 80, plans or (never,))


def _differences(moments: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(moments)]


def _p90(values: list[float]) -> float:
    return statistics.quantiles(values, n=10)[-1]


def _address(url: str) -> str:
    return url.removeprefix("http://")
