"""gRPC through Serve's own server, with generated stubs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from tests.support.grpc_calls import ErrorDetails
from tests.support.grpc_client import GrpcClient, ask_for, read_resuming
from tests.support.grpc_cuts import check_cut_at_every_position, joined
from tests.support.served_app import ServedApp, chat

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
POSITIONS = 100


@pytest.fixture
async def client(pair: ServedApp) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(pair) as client:
        yield client


async def test_ask_and_stream_say_what_http_says(pair: ServedApp, client: GrpcClient) -> None:
    over_http = await pair.stream(chat("alpha", 40, temperature=0.0))
    messages = await client.stream(ask_for("alpha", 40))
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    ask = LLMRequest(prompt="Tell me something.", model="alpha", max_tokens=40, sampling=sampling)
    reply = await client.llm.Ask(ask, metadata=client.metadata)
    assert joined(messages) == reply.response == over_http.text
    assert len([message for message in messages if message.token]) >= 30, "tokens come one by one"
    assert messages[-1].done and messages[-1].position == 40
    assert messages[-1].usage == reply.usage
    assert (reply.usage.completion_tokens, reply.finish_reason) == (40, "length")
    assert 0 < messages[0].latency_ms < messages[-1].latency_ms


async def test_a_document_client_needs_no_more_than_a_prompt(client: GrpcClient) -> None:
    reply = await client.llm.Ask(LLMRequest(prompt="Hi"), metadata=client.metadata)
    assert reply.response
    messages = await client.stream(ChatRequest(prompt="Hi", max_tokens=5))
    assert joined(messages) and messages[-1].done


async def test_three_prompts_and_a_cancel_on_one_call(pair: ServedApp, client: GrpcClient) -> None:
    call = client.chat.BiStreamChat(metadata=client.metadata)
    for name in ("a", "b", "c"):
        await call.write(ask_for("alpha", 4000 if name == "b" else 20, name, id=name))
    seen: dict[str, list[ChatResponse]] = {"a": [], "b": [], "c": []}
    cancelled = False
    async for message in call:
        seen[message.id].append(message)
        if message.id == "b" and not cancelled:
            cancelled = True
            await call.write(ChatRequest(id="b", cancel=True))
            await call.done_writing()
    assert {name: messages[-1].finish_reason for name, messages in seen.items()} == {
        "a": "length",
        "b": "cancelled",
        "c": "length",
    }
    assert await call.code() is grpc.StatusCode.OK
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_a_deadline_that_passes_ends_the_generation(pair: ServedApp, client: GrpcClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.stream(ask_for("alpha", 4000), timeout_s=1.0)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_the_deadline_of_the_call_is_known_to_the_router(pair: ServedApp, client: GrpcClient) -> None:
    before = await pair.scrape()
    ask = LLMRequest(prompt="x", model="alpha", max_tokens=4000, sampling=Sampling(ignore_eos=True))
    with pytest.raises(grpc.aio.AioRpcError):
        await client.llm.Ask(ask, metadata=client.metadata, timeout=1.0)
    await pair.until_idle(ABORTED_WITHIN_S)
    after = await pair.scrape()
    ended = {
        outcome: after.total("serve_app_requests_total", outcome=outcome)
        - before.total("serve_app_requests_total", outcome=outcome)
        for outcome in ("deadline_exceeded", "cancelled", "deadline_unattainable")
    }
    assert sum(ended.values()) == 1, ended


@pytest.mark.parametrize("method", ["Ask", "StreamChat", "BiStreamChat"])
async def test_a_cancelled_call_ends_its_generation(pair: ServedApp, client: GrpcClient, method: str) -> None:
    request = ask_for("alpha", 4000)
    if method == "Ask":
        call = client.llm.Ask(LLMRequest(prompt="x", model="alpha", max_tokens=4000), metadata=client.metadata)
    elif method == "StreamChat":
        call = client.chat.StreamChat(request, metadata=client.metadata)
    else:
        call = client.chat.BiStreamChat(metadata=client.metadata)
        await call.write(request)
    await pair.until_generating(1)
    call.cancel()
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_a_lost_connection_ends_its_generation(pair: ServedApp) -> None:
    async with GrpcClient(pair) as leaving:
        call = leaving.chat.StreamChat(ask_for("alpha", 4000), metadata=leaving.metadata)
        await pair.until_generating(1)
        assert await call.read()
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_overload_is_resource_exhausted_with_advice(narrow: ServedApp) -> None:
    async with GrpcClient(narrow) as client:
        request = LLMRequest(prompt="x", max_tokens=100, sampling=Sampling(ignore_eos=True))
        answers = await asyncio.gather(
            *(client.llm.Ask(request, metadata=client.metadata) for _ in range(12)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert refused and len(refused) < 12
        for error in refused:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            trailers = dict(error.trailing_metadata() or ())
            details = ErrorDetails(trailers["grpc-status-details-bin"])
            advised_ms = details.retry.retry_delay.ToMilliseconds()
            assert 1000 <= advised_ms <= 60_000 and trailers["retry-after-ms"] == str(advised_ms)
            assert details.info.reason == "QUEUE_FULL"


async def test_a_refused_stream_has_the_same_status(narrow: ServedApp) -> None:
    async with GrpcClient(narrow) as client:
        running = [asyncio.create_task(client.stream(ask_for("narrow", 100))) for _ in range(4)]
        await narrow.until_generating(2)
        calls = [client.chat.StreamChat(ask_for("narrow", 100), metadata=client.metadata) for _ in range(4)]
        for call in calls:
            messages = []
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for message in call:
                    messages.append(message)
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert messages[-1].error.retry_after_ms >= 1000
            trailers = dict(failure.value.trailing_metadata() or ())
            assert trailers["retry-after-ms"] == str(messages[-1].error.retry_after_ms)
        await asyncio.gather(*running)


async def test_errors_of_requests_have_their_status(client: GrpcClient) -> None:
    for request, code in (
        (LLMRequest(prompt="x", model="none"), grpc.StatusCode.NOT_FOUND),
        (LLMRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (LLMRequest(prompt="x " * 9000, model="alpha"), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.llm.Ask(request, metadata=client.metadata)
        assert failure.value.code() is code


async def test_health_is_served(client: GrpcClient) -> None:
    answer = await client.health.Check(HealthCheckRequest(service="ChatService"), metadata=client.metadata)
    assert answer.status == HealthCheckResponse.SERVING
    watch = client.health.Watch(HealthCheckRequest(), metadata=client.metadata)
    assert (await watch.read()).status == HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.health.Check(HealthCheckRequest(service="Other"), metadata=client.metadata)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_services_are_found_by_reflection(client: GrpcClient) -> None:
    async def asked() -> AsyncIterator[ServerReflectionRequest]:
        yield ServerReflectionRequest(list_services="")
        yield ServerReflectionRequest(file_containing_symbol="ChatService")

    answers = [answer async for answer in ServerReflectionStub(client.channel).ServerReflectionInfo(asked())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"ChatService", "LLMService", "grpc.health.v1.Health"} <= names
    files = [FileDescriptorProto.FromString(each) for each in answers[1].file_descriptor_response.file_descriptor_proto]
    (chat_file,) = [file for file in files if any(service.name == "ChatService" for service in file.service)]
    assert [method.name for method in chat_file.service[0].method] == ["StreamChat", "BiStreamChat"]


async def test_cut_at_every_position_of_an_answer(pair: ServedApp) -> None:
    await check_cut_at_every_position(pair, "beta", POSITIONS)


async def test_a_call_is_repeated_by_its_key_at_any_router(pair: ServedApp, client: GrpcClient) -> None:
    request = ask_for("beta", POSITIONS, idempotency_key="once")
    call = client.chat.StreamChat(request, metadata=client.metadata)
    first = await call.read()
    call.cancel()
    answers = [await client.stream(request) for _ in range(4)]
    assert {messages[0].stream_id for messages in answers} == {first.stream_id}
    assert len({joined(messages) for messages in answers}) == 1 and answers[0][-1].position == POSITIONS


async def test_a_stream_goes_on_over_another_protocol(pair: ServedApp, client: GrpcClient) -> None:
    whole = joined(await client.stream(ask_for("beta", POSITIONS)))

    call = client.chat.StreamChat(ask_for("beta", POSITIONS, resume=True), metadata=client.metadata)
    begun = [await call.read() for _ in range(5)]
    call.cancel()
    address = f"{pair.url}/v1/streams/{begun[0].stream_id}?offset={begun[-1].position}"
    assert joined(begun) + _sse_text((await pair.http.get(address)).raise_for_status().text) == whole

    body = chat("beta", POSITIONS, temperature=0.0, stream=True)
    headers = {"X-Stream-Resume": "true"}
    async with pair.http.stream("POST", f"{pair.url}/v1/chat/completions", json=body, headers=headers) as answer:
        stream_id = answer.headers["x-stream-id"]
    assert joined(await client.stream(ChatRequest(stream_id=stream_id))) == whole


def _sse_text(body: str) -> str:
    chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("deployment", ["Router", "Engine-steady"])
async def test_a_killed_replica_loses_nothing(failover: ServedApp, deployment: str) -> None:
    whole = {"Router": 2, "Engine-steady": 3}
    await failover.until_whole(whole)
    async with GrpcClient(failover) as client:
        expected = joined(await client.stream(ask_for("steady", 60)))
        reading = [asyncio.create_task(read_resuming(client, ask_for("steady", 60))) for _ in range(6)]
        await failover.until_generating(6)
        victim = await failover.kill_busiest(deployment)
        for messages, breaks in await asyncio.gather(*reading):
            assert joined(messages) == expected
            # Serve's proxy and the connection to it stay: its word for a lost replica is not gRPC's.
            assert {each.status for each in breaks} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}, breaks
    await failover.until_whole(whole, without=[victim])


async def test_a_kept_stream_is_its_tenants_own_and_can_be_stopped(pair: ServedApp, client: GrpcClient) -> None:
    call = client.chat.StreamChat(ask_for("alpha", 4000, resume=True), metadata=client.metadata)
    first = await call.read()
    call.cancel()
    async with GrpcClient(pair, "another tenant") as other:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await other.stream(ChatRequest(stream_id=first.stream_id))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    stopped = await client.stream(ChatRequest(stream_id=first.stream_id, cancel=True))
    assert [message.finish_reason for message in stopped] == ["cancelled"]
    await pair.until_idle(ABORTED_WITHIN_S)


async def test_fifty_streams_at_once_are_whole(pair: ServedApp, client: GrpcClient) -> None:
    began_at = time.monotonic()
    answers = await asyncio.gather(*(client.stream(ask_for("beta", 50, f"Number {n}.")) for n in range(50)))
    assert all(messages[-1].done and messages[-1].position == 50 for messages in answers)
    print(f"50 streams of 50 tokens: {time.monotonic() - began_at:.1f} s")
