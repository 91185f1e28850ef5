"""Errors as gRPC clients see them."""

from __future__ import annotations

import grpc
import pytest

from serve_app.core.errors import (
    ClientTooSlow,
    ContextLengthExceeded,
    DeadlineExceeded,
    DeadlineUnattainable,
    EngineFailed,
    EngineLost,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NoEngineAvailable,
    NotContinuable,
    PayloadTooLarge,
    QueueFull,
    ServeAppError,
    StreamCancelled,
    StreamConflict,
    StreamNotFound,
    StreamTakenOver,
)
from serve_app.ingress.grpc.status import ERROR_DOMAIN, code_of, error_message, status_of
from tests.support.grpc_calls import ErrorDetails, FakeContext


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("m"), "INVALID_ARGUMENT"),
        (ContextLengthExceeded("m"), "INVALID_ARGUMENT"),
        (PayloadTooLarge("m"), "INVALID_ARGUMENT"),
        (ModelNotFound("m"), "NOT_FOUND"),
        (StreamNotFound("m"), "NOT_FOUND"),
        (StreamConflict("m"), "ALREADY_EXISTS"),
        (StreamCancelled("m"), "CANCELLED"),
        (StreamTakenOver("m"), "ABORTED"),
        (QueueFull("m"), "RESOURCE_EXHAUSTED"),
        (DeadlineUnattainable("m"), "RESOURCE_EXHAUSTED"),
        (NoEngineAvailable("m"), "UNAVAILABLE"),
        (EngineLost("m"), "UNAVAILABLE"),
        (NotContinuable("m"), "UNAVAILABLE"),
        (DeadlineExceeded("m"), "DEADLINE_EXCEEDED"),
        (EngineFailed("m"), "INTERNAL"),
        (InternalError("m"), "INTERNAL"),
        (ClientTooSlow("m"), "ABORTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_error_has_its_code(error: ServeAppError, code: str) -> None:
    assert code_of(error) is grpc.StatusCode[code]


def test_a_refusal_says_when_to_come_back_in_three_ways() -> None:
    status = status_of(QueueFull("The waiting queue is full.", 2.25))
    trailers = dict(status.trailers)
    details = ErrorDetails(trailers["grpc-status-details-bin"])
    assert trailers["retry-after-ms"] == trailers["grpc-retry-pushback-ms"] == "2250"
    assert (details.retry.retry_delay.seconds, details.retry.retry_delay.nanos) == (2, 250_000_000)
    assert (details.info.reason, details.info.domain) == ("QUEUE_FULL", ERROR_DOMAIN)
    assert (details.status.code, details.status.message) == (8, "The waiting queue is full.")


def test_what_must_not_be_retried_says_so_to_retry_policies() -> None:
    trailers = dict(status_of(EngineFailed("It raised.")).trailers)
    assert trailers["grpc-retry-pushback-ms"] == "-1"
    assert "retry-after-ms" not in trailers


def test_what_may_be_retried_without_advice_leaves_it_to_the_policy() -> None:
    assert dict(status_of(EngineLost("It died.")).trailers).keys() == {"grpc-status-details-bin"}


def test_an_invalid_request_names_its_field() -> None:
    details = ErrorDetails(
        dict(status_of(InvalidRequest("Too hot.", "temperature", "invalid_value")).trailers)["grpc-status-details-bin"]
    )
    (violation,) = details.bad_request.field_violations
    assert (violation.field, violation.description) == ("temperature", "Too hot.")
    assert details.info.reason == "INVALID_VALUE"


def test_a_status_is_put_on_the_call() -> None:
    context = FakeContext()
    status_of(QueueFull("Full.", 3.0)).put_on(context)
    assert (context.code, context.details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.")
    assert context.trailers["retry-after-ms"] == "3000"


def test_the_message_of_a_stream_says_the_same_as_the_status() -> None:
    message = error_message(QueueFull("Full.", 3.0))
    assert (message.code, message.message, message.status) == ("queue_full", "Full.", 8)
    assert message.retryable and message.retry_after_ms == 3000
    assert not error_message(InvalidRequest("Bad.", "id")).retryable
    assert error_message(InvalidRequest("Bad.", "id")).param == "id"
