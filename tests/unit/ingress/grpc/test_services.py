"""Unary and server-streaming gRPC calls over a router that plays a script."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serve_app.core.errors import ContextLengthExceeded, DeadlineExceeded, QueueFull
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta
from serve_app.core.request import ANONYMOUS_TENANT, Priority
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.call import CALL_DEADLINE
from serve_app.ingress.grpc.config import GrpcConfig
from serve_app.ingress.grpc.generation import Generations
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.services import GrpcServices
from serve_app.ingress.resume import stream_id
from serve_app.ingress.resume.opening import envelope_of
from tests.support.fake_router import FakeRouter, Hang, Late, Script, Silence, fail, speak
from tests.support.grpc_calls import ErrorDetails, FakeContext

CONFIG = IngressConfig(grpc=GrpcConfig(queue_look_s=0.5, health_look_s=0.1), keepalive_s=15.0)


def serve(*scripts: Script, config: IngressConfig = CONFIG) -> tuple[FakeRouter, GrpcServices]:
    router = FakeRouter(list(scripts))
    return router, GrpcServices(Generations(router, config, BytesUnderWay(1024 * 1024), router.clock))


async def stream(
    services: GrpcServices, request: ChatRequest, context: FakeContext | None = None
) -> list[ChatResponse]:
    return [message async for message in services.stream_chat(request, context or FakeContext())]


# --- Ask


async def test_ask_answers_whole() -> None:
    router, services = serve(speak("Hel", "lo", prompt=(1, 2, 3), reason=FinishReason.LENGTH, cached=2))
    context = FakeContext(("x-request-id", "mine"))
    reply = await services.ask(LLMRequest(prompt="Hi"), context)
    assert (reply.response, reply.finish_reason, reply.model, reply.id) == ("Hello", "length", "test-model", "mine")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens) == (3, 2, 2)
    assert context.code is None
    assert router.streams[0].closed


async def test_ask_tells_how_long_it_took() -> None:
    _, services = serve([Late(0.25, [Accepted(1, [1])]), Late(1.0, [Finished(0, FinishReason.STOP)])])
    assert (await services.ask(LLMRequest(prompt="Hi"), FakeContext())).latency_ms == 1250


async def test_ask_refused_has_status_details_and_advice() -> None:
    router, services = serve(fail(QueueFull("Full.", 2.0)))
    context = FakeContext()
    assert (await services.ask(LLMRequest(prompt="Hi"), context)).response == ""
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ErrorDetails(context.trailers["grpc-status-details-bin"]).retry.retry_delay.seconds == 2
    assert router.streams[0].closed


async def test_an_unexpected_error_is_internal_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    _, services = serve([RuntimeError("secret")])
    context = FakeContext()
    await services.ask(LLMRequest(prompt="Hi"), context)
    assert context.code is grpc.StatusCode.INTERNAL
    assert "secret" not in context.details
    assert "serve-id" in caplog.text


async def test_an_answer_that_breaks_off_is_internal() -> None:
    _, services = serve([[Accepted(1, [1])]])
    context = FakeContext()
    await services.ask(LLMRequest(prompt="Hi"), context)
    assert context.code is grpc.StatusCode.INTERNAL


async def test_a_cancelled_call_closes_its_stream() -> None:
    router, services = serve([Hang()])
    call = asyncio.create_task(services.ask(LLMRequest(prompt="Hi"), FakeContext()))
    await router.opened.wait()
    call.cancel()
    await asyncio.wait((call,))
    assert call.cancelled() and router.streams[0].closed


async def test_metadata_say_who_asks_how_urgently_and_until_when() -> None:
    router, services = serve(speak("x"))
    metadata = [("authorization", "Bearer key"), ("x-priority", "batch"), ("x-deadline-ms", "5000")]
    await services.ask(LLMRequest(prompt="Hi"), FakeContext(*metadata))
    (request,) = router.requests
    assert (request.priority, request.timeout_s, request.request_id) == (Priority.BATCH, 5.0, "serve-id")
    assert request.tenant != ANONYMOUS_TENANT


async def test_the_deadline_of_the_call_holds_when_it_is_the_nearer_one() -> None:
    router, services = serve(speak("x"))
    await services.ask(LLMRequest(prompt="Hi"), FakeContext((CALL_DEADLINE, "1500"), ("x-deadline-ms", "5000")))
    await services.ask(LLMRequest(prompt="Hi"), FakeContext((CALL_DEADLINE, "9000"), ("x-deadline-ms", "5000")))
    assert [request.timeout_s for request in router.requests] == [1.5, 5.0]


async def test_wrong_metadata_are_an_invalid_argument() -> None:
    router, services = serve(speak("x"))
    context = FakeContext(("x-priority", "urgent"))
    await services.ask(LLMRequest(prompt="Hi"), context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    context = FakeContext(("x-priority", "urgent"))
    assert [message.error.param for message in await stream(services, ChatRequest(prompt="Hi"), context)] == [
        "X-Priority"
    ]
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not router.streams


async def test_a_request_that_cannot_be_read_is_counted() -> None:
    router, services = serve(speak("x"))
    context = FakeContext()
    await services.ask(LLMRequest(), context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [request_id for request_id, *_ in router.turned_away_requests] == ["serve-id"]


# --- StreamChat


async def test_tokens_come_one_by_one_and_done_comes_alone() -> None:
    router, services = serve(speak("a", "b"))
    messages = await stream(services, ChatRequest(prompt="Hi", id="mine"))
    assert [(message.token, message.done, message.position) for message in messages] == [
        ("a", False, 1),
        ("b", False, 2),
        ("", True, 2),
    ]
    assert {message.id for message in messages} == {"mine"}
    assert [message.model for message in messages] == ["test-model", "", ""]
    assert messages[-1].finish_reason == "stop"
    assert (messages[-1].usage.prompt_tokens, messages[-1].usage.completion_tokens) == (3, 2)
    assert router.streams[0].closed


async def test_what_came_together_is_one_message() -> None:
    deltas = [TokenDelta(0, 0, 1, "a", [1]), TokenDelta(0, 1, 1, "", [2]), TokenDelta(0, 2, 1, "bc", [3])]
    _, services = serve([[Accepted(1, [1])], deltas, [Finished(0, FinishReason.STOP)]])
    messages = await stream(services, ChatRequest(prompt="Hi"))
    assert [(message.token, message.position) for message in messages] == [("abc", 3), ("", 3)]


async def test_the_stream_is_closed_before_done_is_sent() -> None:
    router, services = serve(speak("a"))
    async for message in services.stream_chat(ChatRequest(prompt="Hi"), FakeContext()):
        assert router.streams[0].closed is message.done


async def test_a_stream_that_fails_ends_in_a_message_and_a_status() -> None:
    router, services = serve([[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], DeadlineExceeded("Too late.")])
    context = FakeContext()
    first, last = await stream(services, ChatRequest(prompt="Hi"), context)
    assert (first.token, last.error.code, last.done) == ("a", "deadline_exceeded", False)
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert router.streams[0].closed


async def test_a_refused_stream_carries_the_retry_advice() -> None:
    _, services = serve(fail(QueueFull("Full.", 2.0)))
    context = FakeContext()
    (message,) = await stream(services, ChatRequest(prompt="Hi"), context)
    assert message.error.retry_after_ms == 2000
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert context.trailers["retry-after-ms"] == "2000"


async def test_a_prompt_that_does_not_fit_is_named() -> None:
    _, services = serve(fail(ContextLengthExceeded("It does not fit.")))
    (message,) = await stream(services, ChatRequest(prompt="Hi"))
    assert (message.error.code, message.error.param) == ("context_length_exceeded", "prompt")
    context = FakeContext()
    await services.ask(LLMRequest(prompt="Hi"), context)
    (violation,) = ErrorDetails(context.trailers["grpc-status-details-bin"]).bad_request.field_violations
    assert violation.field == "prompt"


async def test_an_unknown_model_is_not_found() -> None:
    _, services = serve(speak("a"))
    context = FakeContext()
    (message,) = await stream(services, ChatRequest(prompt="Hi", model="other"), context)
    assert (message.error.code, context.code) == ("model_not_found", grpc.StatusCode.NOT_FOUND)


async def test_the_place_in_the_queue_is_told_when_it_changes() -> None:
    _, services = serve([Silence(5), Silence(5), Silence(4), Silence(None), *speak("a")])
    messages = await stream(services, ChatRequest(prompt="Hi"))
    assert [message.queue_position for message in messages if message.HasField("queue_position")] == [5, 4]
    assert [message.latency_ms for message in messages[:2]] == [500, 1500]
    assert [message.token for message in messages[2:]] == ["a", ""]


async def test_a_silent_stream_says_that_it_lives() -> None:
    _, services = serve(
        [[Accepted(1, [1])], *[Silence()] * 3, [TokenDelta(0, 0, 1, "a", [1])], [Finished(0, FinishReason.STOP)]]
    )
    messages = await stream(services, ChatRequest(prompt="Hi"))
    assert [(message.token, message.latency_ms) for message in messages[:3]] == [("", 15e3), ("", 30e3), ("", 45e3)]


@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_a_client_that_leaves_ends_its_generation(leave: str) -> None:
    router, services = serve([[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], Hang()])
    messages = services.stream_chat(ChatRequest(prompt="Hi"), FakeContext())
    assert (await anext(messages)).token == "a"
    if leave == "close":
        await messages.aclose()
    else:
        waiting = asyncio.create_task(anext(messages))
        await router.streams[0].waiting.wait()
        waiting.cancel()
        await asyncio.wait((waiting,))
    assert router.streams[0].closed


# --- resume


async def test_a_kept_stream_names_itself_before_its_first_token() -> None:
    router, services = serve(speak("a"))
    first, *rest = await stream(services, ChatRequest(prompt="Hi", resume=True))
    (key,) = router.retained
    assert (first.token, first.position, first.model) == ("", 0, "test-model")
    assert stream_id.verify(router.signing_key, first.stream_id, ANONYMOUS_TENANT) == key
    assert not any(message.stream_id for message in rest)


async def test_a_kept_stream_has_no_deadline_but_its_own() -> None:
    router, services = serve(speak("a"))
    context = FakeContext((CALL_DEADLINE, "1500"))
    await stream(services, ChatRequest(prompt="Hi", resume=True), context)
    await stream(services, ChatRequest(prompt="Hi", resume=True, deadline_ms=7000), context)
    assert [request.timeout_s for request in router.requests] == [None, 7.0]


async def test_a_kept_stream_can_be_written_by_other_protocols() -> None:
    router, services = serve(speak("a"))
    await stream(services, ChatRequest(prompt="Hi", resume=True))
    (request,) = router.requests
    assert envelope_of(request).model == "test-model"
    assert request.retention is not None and request.retention.grace_s == CONFIG.resume_grace_s


@pytest.mark.parametrize("seen", range(5))
async def test_a_cut_stream_goes_on_where_the_client_says(seen: int) -> None:
    router, services = serve(speak("a", "b", "c", "d"))
    uncut = await stream(services, ChatRequest(prompt="Hi", resume=True))
    had = "".join(message.token for message in uncut if message.position <= seen)
    again = ChatRequest(prompt="Hi", resume=True, stream_id=uncut[0].stream_id, position=seen)
    rest = await stream(services, again)
    assert had + "".join(message.token for message in rest) == "abcd"
    assert rest[0].stream_id == uncut[0].stream_id
    assert rest[-1].done and rest[-1].usage == uncut[-1].usage
    assert len(router.retained) == 1


async def test_a_call_that_was_cut_before_its_first_message_is_repeated_by_its_key() -> None:
    router, services = serve(speak("a", "b"), speak("another"))
    request = ChatRequest(prompt="Hi", idempotency_key="mine")
    first, again = [await stream(services, request) for _ in range(2)]
    assert [message.token for message in again] == [message.token for message in first] == ["", "a", "b", ""]
    assert again[0].stream_id == first[0].stream_id
    assert len(router.retained) == 1


async def test_a_key_belongs_to_one_request_and_one_tenant() -> None:
    router, services = serve(speak("a"))
    await stream(services, ChatRequest(prompt="Hi", idempotency_key="mine"))
    for other in (
        ChatRequest(prompt="Ho", idempotency_key="mine"),
        ChatRequest(prompt="Hi", idempotency_key="mine", max_tokens=3),
        ChatRequest(prompt="Hi", idempotency_key="mine", sampling=Sampling(seed=1)),
    ):
        context = FakeContext()
        (message,) = await stream(services, other, context)
        assert (message.error.code, context.code) == ("stream_conflict", grpc.StatusCode.ALREADY_EXISTS)
    theirs = FakeContext(("authorization", "Bearer other"))
    assert (await stream(services, ChatRequest(prompt="Ho", idempotency_key="mine"), theirs))[-1].done
    assert len(router.retained) == 2


async def test_a_failed_stream_is_begun_anew_by_its_key() -> None:
    _, services = serve([[Accepted(1, [1])], DeadlineExceeded("Too late.")], speak("a"))
    request = ChatRequest(prompt="Hi", idempotency_key="mine")
    assert (await stream(services, request))[-1].error.code == "deadline_exceeded"
    assert (await stream(services, request))[-1].done


async def test_another_tenant_finds_no_stream() -> None:
    _, services = serve(speak("a"))
    (first, *_) = await stream(services, ChatRequest(prompt="Hi", resume=True))
    context = FakeContext(("authorization", "Bearer other"))
    (message,) = await stream(services, ChatRequest(stream_id=first.stream_id), context)
    assert message.error.code == "stream_not_found"
    assert context.code is grpc.StatusCode.NOT_FOUND


async def test_a_kept_stream_is_stopped_by_its_id() -> None:
    router, services = serve([[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], Hang()])
    messages = services.stream_chat(ChatRequest(prompt="Hi", resume=True), FakeContext())
    first = await anext(messages)
    await messages.aclose()
    (last,) = await stream(services, ChatRequest(cancel=True, stream_id=first.stream_id))
    assert (last.done, last.finish_reason) == (True, "cancelled")
    assert [kept.stopped for kept in router.retained.values()] == [True]


# --- health


@pytest.mark.parametrize(
    ("admits", "state"), [(True, HealthCheckResponse.SERVING), (False, HealthCheckResponse.NOT_SERVING)]
)
async def test_health_is_whether_requests_are_admitted(admits: bool, state: int) -> None:
    router, services = serve(speak("a"))
    router.admits = admits
    for name in ("", "ChatService", "LLMService"):
        assert (await services.check(HealthCheckRequest(service=name), FakeContext())).status == state


async def test_the_health_of_an_unknown_service_is_not_found() -> None:
    _, services = serve(speak("a"))
    context = FakeContext()
    await services.check(HealthCheckRequest(service="Other"), context)
    assert context.code is grpc.StatusCode.NOT_FOUND


async def test_who_watches_an_unknown_service_is_told_so() -> None:
    _, services = serve(speak("a"))
    assert (await anext(services.watch(HealthCheckRequest(service="Other")))).status == (
        HealthCheckResponse.SERVICE_UNKNOWN
    )
