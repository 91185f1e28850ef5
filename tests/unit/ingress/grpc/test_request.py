"""gRPC requests in the project's own words."""

from __future__ import annotations

import pytest

from serve_app.core.errors import ContextLengthExceeded, InvalidRequest, PayloadTooLarge, QueueFull
from serve_app.core.request import Priority, Sampling
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.generation_pb2 import Message
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling as SamplingMessage
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.request import (
    check_envelope,
    in_message,
    parse_generation,
    priority_of,
    timeout_of,
)
from serve_app.openai_api.parse import ParsedRequest


def parsed(message: ChatRequest | LLMRequest) -> ParsedRequest:
    return parse_generation(message, "default-model", 10_000)


def refused(message: ChatRequest | LLMRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(message)
    return refusal.value


def test_a_prompt_alone_is_what_the_user_says_to_the_default_model() -> None:
    request = parsed(ChatRequest(prompt="Hi"))
    assert request.model == "default-model"
    assert request.prompts[0].messages == ({"role": "user", "content": "Hi"},)
    assert request.sampling == Sampling()


def test_the_prompt_comes_after_the_messages() -> None:
    before = [Message(role="system", content="Be short."), Message(role="user", content="Hi", name="Ann")]
    request = parsed(LLMRequest(prompt="And now?", messages=before, model="other"))
    assert request.model == "other"
    assert request.prompts[0].messages == (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "user", "content": "And now?"},
    )


def test_every_sampling_field_arrives() -> None:
    sampling = SamplingMessage(
        temperature=0.0,
        top_p=0.5,
        top_k=7,
        min_p=0.25,
        seed=0,
        stop=["a", "b"],
        stop_token_ids=[3],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.25,
        min_tokens=2,
        ignore_eos=True,
    )
    assert {field.name for field, _ in sampling.ListFields()} == {field.name for field in sampling.DESCRIPTOR.fields}
    assert parsed(ChatRequest(prompt="Hi", max_tokens=9, sampling=sampling)).sampling == Sampling(
        max_tokens=9,
        min_tokens=2,
        temperature=0.0,
        top_p=0.5,
        top_k=7,
        min_p=0.25,
        seed=0,
        stop=("a", "b"),
        stop_token_ids=(3,),
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.25,
        ignore_eos=True,
    )


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (ChatRequest(), "prompt"),
        (ChatRequest(prompt="Hi", max_tokens=-1), "max_tokens"),
        (ChatRequest(prompt="Hi", sampling=SamplingMessage(temperature=3)), "sampling.temperature"),
        (ChatRequest(prompt="Hi", sampling=SamplingMessage(temperature=float("nan"))), "sampling.temperature"),
        (ChatRequest(prompt="Hi", sampling=SamplingMessage(stop=[""])), "sampling.stop.0"),
        (ChatRequest(prompt="Hi", max_tokens=2, sampling=SamplingMessage(min_tokens=3)), "sampling.min_tokens"),
        (ChatRequest(messages=[Message(role="tool", content="x")]), "messages.0.role"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_as_the_client_knows_it(message: ChatRequest, field: str) -> None:
    error = refused(message)
    assert error.param == field
    assert field in error.message


def test_a_request_above_the_bound_is_too_large() -> None:
    assert isinstance(refused(LLMRequest(prompt="x" * 10_001)), PayloadTooLarge)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (ChatRequest(id="x" * 129), "id"),
        (ChatRequest(stream_id="s", position=-1), "position"),
        (ChatRequest(position=1), "position"),
        (ChatRequest(idempotency_key="x" * 256), "idempotency_key"),
        (ChatRequest(idempotency_key="a\nb"), "idempotency_key"),
    ],
)
def test_what_is_around_the_request_is_checked(message: ChatRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_envelope(message)
    assert refusal.value.param == field


def test_priority_and_deadline_of_the_message_come_before_those_of_the_metadata() -> None:
    message = ChatRequest(priority="Batch", deadline_ms=1500)
    assert priority_of(message, Priority.DEFAULT) is Priority.BATCH
    assert priority_of(ChatRequest(), Priority.INTERACTIVE) is Priority.INTERACTIVE
    assert timeout_of(message, 9.0) == 1.5
    assert timeout_of(ChatRequest(), 9.0) == 9.0


def test_unknown_priorities_and_deadlines_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="interactive, default, batch"):
        priority_of(ChatRequest(priority="urgent"), Priority.DEFAULT)
    with pytest.raises(InvalidRequest, match="deadline_ms"):
        timeout_of(ChatRequest(deadline_ms=-5), None)


def test_errors_of_router_and_engine_name_the_fields_of_the_message() -> None:
    too_long = ContextLengthExceeded("It does not fit.")
    assert vars_of(in_message(too_long, ChatRequest(prompt="Hi"))) == "prompt"
    assert vars_of(in_message(too_long, ChatRequest(prompt="Hi", messages=[Message()]))) == "messages"
    assert vars_of(in_message(InvalidRequest("'offset' is beyond.", "offset"), ChatRequest())) == "position"
    full = QueueFull("Full.")
    assert in_message(full, ChatRequest()) is full


def vars_of(error: Exception) -> str | None:
    assert isinstance(error, InvalidRequest)
    return error.param
