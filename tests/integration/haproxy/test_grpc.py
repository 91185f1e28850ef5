"""gRPC behind HAProxy, where router replicas speak it themselves: what differs from Serve's own proxy.

Answers are cut at every position in tests/integration/simulated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from tests.support.grpc_calls import ErrorDetails
from tests.support.grpc_client import GrpcClient, ask_for
from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
CUT_WITHIN_S = 120.0
"""The windows of HTTP/2 on the way hold a hundred kilobytes or two, which are a thousand tokens."""


@pytest.fixture
async def client(fast: ServedApp) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(fast) as client:
        yield client


async def test_grpc_says_what_http_says(fast: ServedApp, client: GrpcClient) -> None:
    over_http = await fast.stream(chat("fast", 40, temperature=0.0))
    messages = await client.stream(ask_for("fast", 40))
    assert "".join(message.token for message in messages) == over_http.text
    assert len([message for message in messages if message.token]) >= 30, "tokens come one by one"
    assert messages[-1].done


@pytest.mark.parametrize(
    ("method", "how"),
    [("Ask", "cancel"), ("StreamChat", "cancel"), ("BiStreamChat", "cancel"), ("StreamChat", "deadline")],
)
async def test_a_client_that_leaves_ends_its_generation(
    fast: ServedApp, client: GrpcClient, method: str, how: str
) -> None:
    timeout_s = 1.5 if how == "deadline" else None
    request = ask_for("fast", 60_000)
    if method == "Ask":
        ask = LLMRequest(prompt="x", model="fast", max_tokens=60_000, sampling=Sampling(ignore_eos=True))
        call = client.llm.Ask(ask, metadata=client.metadata, timeout=timeout_s)
    elif method == "StreamChat":
        call = client.chat.StreamChat(request, metadata=client.metadata, timeout=timeout_s)
    else:
        call = client.chat.BiStreamChat(metadata=client.metadata, timeout=timeout_s)
        await call.write(request)
    await fast.until_generating(1)
    if how == "cancel":
        call.cancel()
    expected = grpc.StatusCode.CANCELLED if how == "cancel" else grpc.StatusCode.DEADLINE_EXCEEDED
    assert await call.code() is expected
    await fast.until_idle(ABORTED_WITHIN_S)


async def test_three_prompts_and_a_cancel_on_one_call(fast: ServedApp, client: GrpcClient) -> None:
    call = client.chat.BiStreamChat(metadata=client.metadata)
    for name in ("a", "b", "c"):
        await call.write(ask_for("fast", 60_000 if name == "b" else 20, name, id=name))
    ends: dict[str, str] = {}
    cancelled = False
    async for message in call:
        if message.done:
            ends[message.id] = message.finish_reason
        elif message.id == "b" and not cancelled:
            cancelled = True
            await call.write(ChatRequest(id="b", cancel=True))
            await call.done_writing()
    assert ends == {"a": "length", "b": "cancelled", "c": "length"}
    await fast.until_idle(ABORTED_WITHIN_S)


async def test_overload_is_resource_exhausted_with_advice(fast: ServedApp, client: GrpcClient) -> None:
    # More than two routers can run and hold, on as many connections as it takes to meet both.
    calls = [client.chat.StreamChat(ask_for("fast", 300), metadata=client.metadata) for _ in range(60)]
    codes = await asyncio.gather(*(_read(call) for call in calls))
    refused = [call for call, code in zip(calls, codes, strict=True) if code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert refused
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for call in refused:
        trailers = dict(await call.trailing_metadata())
        details = ErrorDetails(trailers["grpc-status-details-bin"])
        assert trailers["retry-after-ms"] == str(details.retry.retry_delay.ToMilliseconds())


async def test_health_and_reflection_are_served(client: GrpcClient) -> None:
    answer = await client.health.Check(HealthCheckRequest(), metadata=client.metadata)
    assert answer.status == HealthCheckResponse.SERVING

    async def asked() -> AsyncIterator[ServerReflectionRequest]:
        yield ServerReflectionRequest(list_services="")

    (listed,) = [answer async for answer in ServerReflectionStub(client.channel).ServerReflectionInfo(asked())]
    assert {"ChatService", "LLMService"} <= {service.name for service in listed.list_services_response.service}


async def test_a_client_that_does_not_read_is_cut_at_its_bound(fast: ServedApp) -> None:
    before = (await fast.scrape()).total("serve_app_requests_total", outcome="client_too_slow")
    request = ask_for("fast", 60_000, id="x" * 128)  # in each message, to make them large

    async with GrpcClient(fast, small=True) as client:
        call = client.chat.StreamChat(request, metadata=client.metadata)
        messages = [await call.read()]

        async def cut() -> bool:
            page = await fast.scrape()
            return page.total("serve_app_requests_total", outcome="client_too_slow") == before + 1

        await eventually_async(cut, CUT_WITHIN_S, "the stream is cut")
        await fast.until_idle(ABORTED_WITHIN_S)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            while (message := await call.read()) is not grpc.aio.EOF:
                messages.append(message)
            await call.read()
    assert messages[-1].error.code == "client_too_slow"
    assert failure.value.code() is grpc.StatusCode.ABORTED


async def _read(call: grpc.aio.UnaryStreamCall) -> grpc.StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code
