"""Many requests on one call of `BiStreamChat`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
import pytest

from serve_app.core.errors import EngineFailed, QueueFull
from serve_app.core.events import Accepted, StreamEvent, TokenDelta
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.call import CALL_DEADLINE
from serve_app.ingress.grpc.config import GrpcConfig
from serve_app.ingress.grpc.generation import Generations
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.grpc.services import GrpcServices
from tests.support.fake_router import FakeRouter, Hang, Late, Script, fail, speak
from tests.support.grpc_calls import FakeContext, FakeRequests

ACCEPTED: list[StreamEvent] = [Accepted(1, [1])]
UNENDED: Script = [ACCEPTED, [TokenDelta(0, 0, 1, "a", [1])], Hang()]


def serve(*scripts: Script, **bounds: float) -> tuple[FakeRouter, GrpcServices]:
    router = FakeRouter(list(scripts))
    config = IngressConfig(grpc=GrpcConfig.model_validate(bounds))
    return router, GrpcServices(Generations(router, config, BytesUnderWay(1024 * 1024), router.clock))


async def converse(
    services: GrpcServices, requests: FakeRequests, context: FakeContext | None = None
) -> list[ChatResponse]:
    return [message async for message in services.bi_stream_chat(requests, context or FakeContext())]


def text(messages: list[ChatResponse], client_id: str) -> str:
    return "".join(message.token for message in messages if message.id == client_id)


async def until(messages: AsyncGenerator[ChatResponse, None], client_id: str, token: str) -> None:
    async for message in messages:
        if (message.id, message.token) == (client_id, token):
            return


async def test_three_prompts_are_answered_on_one_call() -> None:
    router, services = serve(speak("a", "b"), speak("c"), speak("d", "e"))
    requests = FakeRequests(*(ChatRequest(prompt=each, id=each) for each in "123"))
    context = FakeContext()
    messages = await converse(services, requests, context)
    assert [text(messages, each) for each in "123"] == ["ab", "c", "de"]
    assert sorted(message.id for message in messages if message.done) == ["1", "2", "3"]
    assert context.code is None
    assert [request.request_id for request in router.requests] == ["serve-id-1", "serve-id-2", "serve-id-3"]


async def test_requests_with_ids_run_at_the_same_time() -> None:
    router, services = serve(UNENDED, speak("b"))
    requests = FakeRequests(ChatRequest(prompt="1", id="1"), ChatRequest(prompt="2", id="2"), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        await until(messages, "2", "b")
    assert [stream.closed for stream in router.streams] == [True, True]


async def test_prompts_without_ids_are_answered_one_after_the_other() -> None:
    _, services = serve(speak("a", "b"), speak("c", "d"))
    messages = await converse(services, FakeRequests(ChatRequest(prompt="1"), ChatRequest(prompt="2")))
    assert [message.token or message.done for message in messages] == ["a", "b", True, "c", "d", True]
    assert {message.id for message in messages} == {"serve-id-1", "serve-id-2"}


async def test_a_cancelled_request_ends_and_the_others_go_on() -> None:
    router, services = serve(UNENDED, speak("b"))
    requests = FakeRequests(ChatRequest(prompt="1", id="1"), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        await until(messages, "1", "a")
        requests.send(ChatRequest(id="1", cancel=True))
        requests.send(ChatRequest(prompt="2", id="2"))
        requests.end()
        rest = [message async for message in messages]
    assert [message.finish_reason for message in rest if message.id == "1"] == ["cancelled"]
    assert router.streams[0].closed
    assert text(rest, "2") == "b"


async def test_a_request_that_is_cancelled_at_once_is_never_offered() -> None:
    router, services = serve(UNENDED)
    messages = await converse(services, FakeRequests(ChatRequest(prompt="1", id="1"), ChatRequest(id="1", cancel=True)))
    assert [message.finish_reason for message in messages] == ["cancelled"]
    assert not router.streams


async def test_cancelling_twice_ends_once() -> None:
    _, services = serve(UNENDED)
    requests = FakeRequests(ChatRequest(prompt="1", id="1"), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        await until(messages, "1", "a")
        for _ in range(2):
            requests.send(ChatRequest(id="1", cancel=True))
        requests.end()
        assert [message.finish_reason async for message in messages] == ["cancelled"]


async def test_cancelling_what_is_not_open_does_nothing() -> None:
    _, services = serve(speak("a"))
    assert await converse(services, FakeRequests(ChatRequest(id="1", cancel=True), ChatRequest(cancel=True))) == []


async def test_an_id_may_be_used_again_after_its_end() -> None:
    _, services = serve(speak("a"), speak("b"))
    requests = FakeRequests(ChatRequest(prompt="1", id="1"), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        await until(messages, "1", "")
        requests.send(ChatRequest(prompt="2", id="1"))
        requests.end()
        assert text([message async for message in messages], "1") == "b"


async def test_an_id_in_use_is_refused_and_the_first_request_goes_on() -> None:
    _, services = serve(speak("a"))
    messages = await converse(services, FakeRequests(*[ChatRequest(prompt="1", id="1")] * 2))
    (refused,) = [message for message in messages if message.HasField("error")]
    assert (refused.error.code, refused.error.param) == ("id_in_use", "id")
    assert "'1'" in refused.error.message
    assert refused.id == ""  # an error with an id ends the request of that id
    assert text(messages, "1") == "a"
    assert [message.done for message in messages if message.id == "1"][-1]


async def test_an_error_of_one_request_is_a_message_and_no_status() -> None:
    _, services = serve(fail(QueueFull("Full.", 2.0)), [ACCEPTED, EngineFailed("It raised.")], speak("c"))
    context = FakeContext()
    messages = await converse(services, FakeRequests(*(ChatRequest(prompt=each, id=each) for each in "123")), context)
    errors = {message.id: message.error for message in messages if message.HasField("error")}
    assert {key: error.code for key, error in errors.items()} == {"1": "queue_full", "2": "engine_failed"}
    assert errors["1"].retry_after_ms == 2000
    assert text(messages, "3") == "c"
    assert context.code is None


async def test_open_requests_are_bounded() -> None:
    router, services = serve(UNENDED, max_requests=2)
    requests = FakeRequests(*(ChatRequest(prompt=each, id=each) for each in "123"), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        refused = await anext(message async for message in messages if message.HasField("error"))
    assert (refused.id, refused.error.code, refused.error.retryable) == ("3", "queue_full", True)
    assert len(router.streams) == 2


async def test_a_reader_that_stops_leaves_generations_unread() -> None:
    router, services = serve(
        [ACCEPTED, *([[TokenDelta(0, n, 1, "x", [1])] for n in range(50)]), Hang()], max_unread_messages=3
    )
    async with aclosing(
        services.bi_stream_chat(FakeRequests(ChatRequest(prompt="1", id="1")), FakeContext())
    ) as messages:
        await anext(messages)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(router.streams[0].timeouts_s) < 10


@pytest.mark.parametrize("leave", ["close", "cancelled", "error"])
async def test_a_client_that_leaves_ends_everything(leave: str) -> None:
    router, services = serve(UNENDED)
    requests = FakeRequests(*(ChatRequest(prompt=each, id=each) for each in "12"), ended=False)
    context = FakeContext()
    messages = services.bi_stream_chat(requests, context)
    await until(messages, "2", "a")
    if leave == "cancelled":
        requests.end(cancelled=True)
    elif leave == "error":
        requests.end(error=RuntimeError("The proxy is gone."))
    rest = [] if leave == "close" else [message async for message in messages]
    await messages.aclose()
    assert [stream.closed for stream in router.streams] == [True, True]
    assert not any(message.done for message in rest)
    assert context.code is (grpc.StatusCode.INTERNAL if leave == "error" else None)


async def test_deadlines_count_from_when_call_and_request_came() -> None:
    router, services = serve([Late(2.0, ACCEPTED), *speak("a")], speak("b"), speak("c"))
    requests = FakeRequests(ChatRequest(prompt="1"), ChatRequest(prompt="2", deadline_ms=5000), ChatRequest(prompt="3"))
    await converse(services, requests, FakeContext((CALL_DEADLINE, "9000")))
    assert [request.timeout_s for request in router.requests] == [9.0, 3.0, 7.0]


async def test_a_deadline_that_has_passed_while_a_request_waited_for_its_turn_is_the_routers_to_tell() -> None:
    router, services = serve([Late(2.0, ACCEPTED), *speak("a")], speak("b"))
    await converse(services, FakeRequests(ChatRequest(prompt="1"), ChatRequest(prompt="2", deadline_ms=500)))
    assert [request.timeout_s for request in router.requests] == [None, 0.001]


async def test_an_idle_call_ends() -> None:
    _, services = serve(speak("a"), idle_timeout_s=0.001)
    assert await converse(services, FakeRequests(ended=False)) == []


async def test_a_call_that_waits_for_an_answer_is_not_idle() -> None:
    router, services = serve(UNENDED, idle_timeout_s=0.001)
    requests = FakeRequests(ChatRequest(prompt="1", id="1"), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        await until(messages, "1", "a")
        waiting = asyncio.create_task(anext(messages))
        await asyncio.wait((waiting,), timeout=0.02)
        assert not waiting.done() and not router.streams[0].closed
        waiting.cancel()
        await asyncio.wait((waiting,))
    assert router.streams[0].closed


async def test_a_kept_stream_outlives_the_call_and_is_stopped_by_cancel() -> None:
    router, services = serve(UNENDED)
    requests = FakeRequests(ChatRequest(prompt="1", id="1", resume=True), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        first = await anext(messages)
    (kept,) = router.retained.values()
    assert not kept.stopped
    again = FakeRequests(ChatRequest(id="2", stream_id=first.stream_id), ended=False)
    async with aclosing(services.bi_stream_chat(again, FakeContext())) as messages:
        await until(messages, "2", "a")
        again.send(ChatRequest(id="2", cancel=True))
        assert (await anext(messages)).finish_reason == "cancelled"
    assert kept.stopped


async def test_a_cancelled_request_is_not_kept() -> None:
    router, services = serve(UNENDED)
    requests = FakeRequests(ChatRequest(prompt="1", id="1", resume=True), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        await until(messages, "1", "a")
        requests.send(ChatRequest(id="1", cancel=True))
        assert (await anext(messages)).finish_reason == "cancelled"
    assert [kept.stopped for kept in router.retained.values()] == [True]


async def test_a_kept_stream_is_stopped_by_its_own_id() -> None:
    router, services = serve(UNENDED)
    requests = FakeRequests(ChatRequest(prompt="1", id="1", resume=True), ended=False)
    async with aclosing(services.bi_stream_chat(requests, FakeContext())) as messages:
        first = await anext(messages)
    (last,) = await converse(services, FakeRequests(ChatRequest(stream_id=first.stream_id, cancel=True)))
    assert last.finish_reason == "cancelled"
    assert [kept.stopped for kept in router.retained.values()] == [True]


# --- the replica is about to be stopped


async def test_a_call_without_requests_ends_when_its_replica_leaves() -> None:
    router, services = serve(speak("a"))
    router.departure.observe(listed=True)
    context = FakeContext()
    call = asyncio.create_task(converse(services, FakeRequests(ended=False), context))
    await asyncio.sleep(0.01)
    assert not call.done()
    router.departure.observe(listed=False)
    async with asyncio.timeout(5.0):
        (message,) = await call
    assert (message.id, message.error.code, message.error.retryable) == ("", "replica_leaving", True)
    assert context.code is grpc.StatusCode.UNAVAILABLE


async def test_open_requests_are_answered_first_and_new_ones_refused() -> None:
    router, services = serve(UNENDED)
    router.departure.observe(listed=True)
    requests, context = FakeRequests(ChatRequest(prompt="1", id="1"), ended=False), FakeContext()
    async with asyncio.timeout(5.0), aclosing(services.bi_stream_chat(requests, context)) as messages:
        await until(messages, "1", "a")
        router.departure.observe(listed=False)
        requests.send(ChatRequest(prompt="2", id="2"))
        refused = await anext(messages)
        assert (refused.id, refused.error.code) == ("2", "replica_leaving")
        router.streams[0].fail(EngineFailed("It raised."))
        rest = [message async for message in messages]
    assert [(message.id, message.error.code) for message in rest] == [("1", "engine_failed"), ("", "replica_leaving")]
    assert context.code is grpc.StatusCode.UNAVAILABLE
    assert len(router.streams) == 1
