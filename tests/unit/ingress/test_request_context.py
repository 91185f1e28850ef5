from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Priority
from serve_app.ingress.request_context import Urgency, request_id_of, urgency_of


def context(**headers: str) -> Urgency:
    return urgency_of(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def test_without_headers_the_request_is_ordinary() -> None:
    assert context() == Urgency(Priority.DEFAULT, None)


@pytest.mark.parametrize("value", ["interactive", "INTERACTIVE", " interactive "])
def test_priority_is_read_whatever_its_case(value: str) -> None:
    assert context(x_priority=value).priority is Priority.INTERACTIVE


@pytest.mark.parametrize("value", ["", "high", "1"])
def test_a_bad_priority_is_refused_with_what_is_allowed(value: str) -> None:
    with pytest.raises(InvalidRequest, match="interactive, default, batch") as caught:
        context(x_priority=value)
    assert caught.value.param == "X-Priority"


def test_a_deadline_in_milliseconds_becomes_a_timeout_in_seconds() -> None:
    assert context(x_deadline_ms="1500").timeout_s == 1.5


@pytest.mark.parametrize("value", ["", "0", "-5", "+5", "1.5", "1_000", "soon", "\u0661", "9" * 30])
def test_a_bad_deadline_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="X-Deadline-Ms"):
        urgency_of(Headers(raw=[(b"x-deadline-ms", value.encode())]))


@pytest.mark.parametrize("value", ["a", "req_1", "6f9619ff-8b86-d011-b42d-00c04fc964ff", "a" * 128])
def test_a_plain_request_id_is_kept(value: str) -> None:
    assert request_id_of(Headers({"x-request-id": value})) == value


@pytest.mark.parametrize("value", ["", "a" * 129, "a b", 'a"b', "a\nb", "\u00e9"])
def test_a_request_id_unfit_for_logs_is_replaced(value: str) -> None:
    headers = Headers(raw=[(b"x-request-id", value.encode())])
    assert request_id_of(headers).startswith("req_")
    assert request_id_of(headers) != request_id_of(headers)
