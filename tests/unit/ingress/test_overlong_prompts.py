"""A prompt that can never fit is refused at once on every protocol: by the router, before any engine sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import pytest

from serve_app.core.errors import ContextLengthExceeded
from serve_app.core.interfaces import KeptState, TokenStream
from serve_app.core.request import GenerationRequest
from serve_app.ingress.api import build_api
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.generation import Generations
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.services import GrpcServices
from serve_app.ingress.handle.api import build_handle_api
from tests.support.fake_router import FakeRouter
from tests.support.grpc_calls import FakeContext
from tests.support.retained_world import MODEL, STEP_S, RouterReplica, World
from tests.support.virtual_loop import run_virtual
from tests.unit.ingress.requests import error_of
from tests.unit.ingress.websocket.client import PLAIN_SOCKET, SocketClient

WINDOW = 2048
TOKEN_BYTES = 8
POISON = "Once upon a time " * 2000
"""At least 4,250 tokens of 8 bytes."""
CONFIG = IngressConfig()
MESSAGES = [{"role": "user", "content": POISON}]
DEADLINE = {"X-Deadline-Ms": "60000"}
KEPT = {"Idempotency-Key": "once"}

BODIES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}, {}),
    "chat, n": ("/v1/chat/completions", {"messages": MESSAGES, "n": 4}, {}),
    "chat, streamed": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, {}),
    "chat, streamed and kept": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, KEPT),
    "completions": ("/v1/completions", {"prompt": POISON}, {}),
    "completions, token ids": ("/v1/completions", {"prompt": [1] * WINDOW}, {}),
    "completions, one of several": ("/v1/completions", {"prompt": ["short", POISON, "short"]}, {}),
    "responses": ("/v1/responses", {"input": POISON}, {}),
    "responses, streamed": ("/v1/responses", {"input": POISON, "stream": True}, {}),
}


class RealRouter(FakeRouter):
    """Opens streams as the router's deployment does."""

    def __init__(self, replica: RouterReplica) -> None:
        super().__init__(model_ids=(MODEL,))
        self._replica = replica

    def open(self, request: GenerationRequest) -> TokenStream:  # type: ignore[override]  # no script plays here
        replica = self._replica
        return replica.lifecycle.open(request) if request.retention is None else replica.streams.open(request)

    async def look_up(self, key: str, tenant: str) -> KeptState:
        return await self._replica.streams.look_up(key, tenant)


def refused(ask: Callable[[RealRouter], Awaitable[None]]) -> None:
    """Run `ask` with a router whose engine takes any prompt, and see that it gets none, at once."""

    async def main() -> None:
        world = World(routers=1, engines=1)
        world.engines["e0"].engine.max_model_len = WINDOW
        world.engines["e0"].engine.max_token_bytes = TOKEN_BYTES
        async with world:
            now = world.loop.time()
            await ask(RealRouter(world.routers["r0"]))
            await asyncio.sleep(0)
            # Requests by a key are looked for at other replicas first.
            assert world.loop.time() - now < STEP_S
            assert world.engines["e0"].engine.computed == 0

    run_virtual(main())


@pytest.mark.parametrize("headers", [{}, DEADLINE], ids=["no deadline", "deadline"])
@pytest.mark.parametrize("case", BODIES)
def test_http(case: str, headers: dict[str, str]) -> None:
    path, body, more = BODIES[case]

    async def ask(router: RealRouter) -> None:
        transport = httpx.ASGITransport(build_api(lambda: router, CONFIG, clock=router.clock))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.post(path, json={"model": MODEL, **body}, headers=headers | more)
        assert answer.status_code == 400, answer.text
        assert error_of(answer)["code"] == "context_length_exceeded"

    refused(ask)


@pytest.mark.parametrize("path", ["/stream", "/v1/chat/completions/stream"])
def test_prompt_in_the_address(path: str) -> None:
    async def ask(router: RealRouter) -> None:
        transport = httpx.ASGITransport(build_api(lambda: router, CONFIG, clock=router.clock))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.get(path, params={"prompt": POISON})
        assert answer.status_code == 400, answer.text
        assert error_of(answer)["code"] == "context_length_exceeded"

    refused(ask)


def test_websocket() -> None:
    async def ask(router: RealRouter) -> None:
        async with SocketClient(router) as client:
            client.ask("a", {"model": MODEL, "messages": MESSAGES})
            assert (await client.hear())["error"]["code"] == "context_length_exceeded"
        async with SocketClient(router, PLAIN_SOCKET) as client:
            client.say({"prompt": POISON})
            assert (await client.hear())["error"]["code"] == "context_length_exceeded"

    refused(ask)


def test_grpc() -> None:
    async def ask(router: RealRouter) -> None:
        services = GrpcServices(Generations(router, CONFIG, BytesUnderWay(1024 * 1024), router.clock))
        context = FakeContext()
        await services.ask(LLMRequest(prompt=POISON), context)
        assert context.code is grpc.StatusCode.INVALID_ARGUMENT
        last = [message async for message in services.stream_chat(ChatRequest(prompt=POISON), FakeContext())][-1]
        assert last.error.code == "context_length_exceeded"

    refused(ask)


def test_handle() -> None:
    async def ask(router: RealRouter) -> None:
        api = build_handle_api(router, CONFIG)
        body = {"model": MODEL, "messages": MESSAGES}
        with pytest.raises(ContextLengthExceeded):
            await api.chat(body, {})
        with pytest.raises(ContextLengthExceeded):
            async for _ in api.stream_chat(body, {"timeout_s": 60}):
                pass

    refused(ask)
