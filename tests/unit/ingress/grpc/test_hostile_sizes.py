"""Long gRPC messages hold up nobody else, and are accounted until they are read."""

from __future__ import annotations

import grpc
import pytest

from serve_app.ingress.bytes_under_way import SHORT_BYTES, BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.generation import Generations
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.services import GrpcServices
from tests.support.fake_router import FakeRouter, Hang, speak
from tests.support.grpc_calls import FakeContext, FakeRequests
from tests.support.loop_hold import LoopHold

_LONGEST_HOLD_S = 0.05
_ATTEMPTS = 3
_MOST_BYTES = 4 * 1024 * 1024
"""Of a message, by gRPC's default."""


def serve(router: FakeRouter, account: BytesUnderWay) -> GrpcServices:
    return GrpcServices(Generations(router, IngressConfig(), account, router.clock))


def empty_messages() -> ChatRequest:
    request = ChatRequest()
    request.ParseFromString(ChatRequest(messages=[{}]).SerializeToString() * (_MOST_BYTES // 2))
    return request


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest(prompt="[1,2]," * (_MOST_BYTES // 6), idempotency_key="k"),
        ChatRequest(prompt="中" * (_MOST_BYTES // 3)),
        ChatRequest(messages=[{"role": "user", "content": "a"}] * 4096),
        ChatRequest(sampling={"stop": ["a"] * (_MOST_BYTES // 3)}),
        ChatRequest(prompt="a", sampling={"stop_token_ids": [1] * _MOST_BYTES}),
        empty_messages(),
    ],
    ids=["commas", "wide characters", "messages", "stop strings", "stop tokens", "empty messages"],
)
async def test_no_message_holds_the_event_loop_for_long(request_: ChatRequest) -> None:
    account = BytesUnderWay(IngressConfig().max_bytes_under_way)
    holds: list[float] = []
    for _ in range(_ATTEMPTS):
        services = serve(FakeRouter([speak("a")]), account)
        async with LoopHold() as hold:
            assert [message async for message in services.stream_chat(request_, FakeContext())]
        assert account.held_bytes == 0
        holds.append(hold.longest_s)
        if hold.longest_s < _LONGEST_HOLD_S:
            return
    pytest.fail(f"the loop was held for {min(holds):.3f} s")


async def test_one_message_too_many_is_refused_with_advice() -> None:
    account = BytesUnderWay(SHORT_BYTES)
    router = FakeRouter([speak("a")])
    services = serve(router, account)
    context, other = FakeContext(), FakeContext()
    with account.claim() as claim:
        claim.hold(SHORT_BYTES)
        [refused] = [message async for message in services.stream_chat(ChatRequest(prompt="a"), context)]
        assert refused.error.code == "router_busy"
        await services.ask(LLMRequest(prompt="a"), other)
    assert context.code == other.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(context.trailers["grpc-retry-pushback-ms"]) > 0
    assert [code for *_, code in router.turned_away_requests] == ["router_busy", "router_busy"]


async def test_requests_that_wait_for_their_turn_are_accounted_until_the_call_ends() -> None:
    account = BytesUnderWay(4 * SHORT_BYTES)
    services = serve(FakeRouter([[Hang()]]), account)
    requests = FakeRequests(*[ChatRequest(prompt="a" * SHORT_BYTES)] * 3, ended=False)
    answers = services.bi_stream_chat(requests, FakeContext())
    refused = await anext(answers)
    assert refused.error.code == "router_busy"
    assert SHORT_BYTES < account.held_bytes <= 4 * SHORT_BYTES
    await answers.aclose()
    assert account.held_bytes == 0
