"""What the server's answers mean."""

from __future__ import annotations

import httpx
import pytest

from serve_app.client.errors import ClientError, Overloaded, RequestRejected, ServerFailed
from serve_app.client.server_errors import error_of_event, error_of_response, retry_after_s

BODY = b'{"error": {"message": "It is full.", "type": "rate_limit_error", "param": "model", "code": "queue_full"}}'


@pytest.mark.parametrize(
    ("status", "kind", "should_retry"),
    [
        (400, RequestRejected, False),
        (404, RequestRejected, False),
        (408, RequestRejected, True),
        (409, RequestRejected, False),
        (429, Overloaded, True),
        (500, ServerFailed, True),
        (502, ServerFailed, True),
        (503, Overloaded, True),
    ],
)
def test_a_status_says_what_kind_of_error_it_is(status: int, kind: type[ClientError], should_retry: bool) -> None:
    error = error_of_response(status, {}, BODY)
    assert type(error) is kind
    assert (error.message, error.status, error.code, error.param) == ("It is full.", status, "queue_full", "model")
    assert error.should_retry is should_retry


@pytest.mark.parametrize(("told", "expected"), [("true", True), ("false", False)])
def test_the_servers_own_word_on_retries_counts_more_than_the_status(told: str, expected: bool) -> None:
    for status in (400, 429, 500):
        assert error_of_response(status, {"x-should-retry": told}, BODY).should_retry is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "1250", "retry-after": "2"}, 1.25),
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "Sun, 22 Nov 2026 10:00:30 GMT", "Date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"Retry-After": "Sun, 22 Nov 2026 10:00:00 GMT", "Date": "Sun, 22 Nov 2026 10:00:30 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_in_all_its_forms(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(httpx.Headers(headers)) == expected


def test_a_body_that_is_none_of_ours_is_told_by_its_first_line() -> None:
    error = error_of_response(502, {}, b"<html>\n<h1>Bad gateway</h1>")
    assert (error.message, error.code) == ("<html>", None)
    assert str(error_of_response(502, {}, b"")) == "HTTP status 502 (502)"
    assert error_of_response(400, {}, b'{"error": "text"}').message == '{"error": "text"}'


def test_an_error_event_is_what_its_code_says() -> None:
    error = error_of_event('{"error": {"message": "Full.", "code": "queue_full"}}', 1500)
    assert (type(error), error.status, error.should_retry, error.retry_after_s) == (Overloaded, 429, True, 1.5)
    error = error_of_event('{"error": {"message": "Broke.", "code": "engine_failed"}}', None)
    assert (type(error), error.status, error.should_retry, error.retry_after_s) == (ServerFailed, 500, False, None)
    assert error_of_event('{"error": {"message": "?", "code": "of tomorrow"}}', None).should_retry is False
