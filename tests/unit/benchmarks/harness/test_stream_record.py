from __future__ import annotations

import json

import pytest

from benchmarks.harness.stream_record import BadStream, ReplayRecord, judge

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(content: str | None = None, usage: int | None = None) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    body = {"choices": choices, "usage": None if usage is None else {"completion_tokens": usage}}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


_DONE = b"data: [DONE]\n\n"
_END = b"0\r\n\r\n"


def _record(*reads: bytes) -> ReplayRecord:
    """Reads arrive at seconds 1, 2, 3…; the request was sent at 0.5."""
    return ReplayRecord(0.5, list(reads), [float(second) for second in range(1, len(reads) + 1)])


def test_a_complete_stream_is_counted() -> None:
    record = _record(
        _HEAD + _chunk(_event("")), _chunk(_event("a")), _chunk(_event("b")), _chunk(_event(usage=2) + _DONE) + _END
    )
    result = judge(record, expected_tokens=2)
    assert (result.tokens, result.frames) == (2, 2)
    assert result.ttft_s == 1.5
    assert result.duration_s == 3.5


def test_first_token_arrives_with_the_read_that_completes_its_event() -> None:
    text = _chunk(_event("a"))
    record = _record(_HEAD, text[:10], text[10:-2], text[-2:] + _chunk(_event(usage=1) + _DONE) + _END)
    assert judge(record, expected_tokens=1).ttft_s == 2.5


def test_an_event_may_be_spread_over_several_chunks() -> None:
    event = _event("a")
    record = _record(_HEAD, _chunk(event[:9]), _chunk(event[9:]), _chunk(_event(usage=1) + _DONE) + _END)
    assert judge(record, expected_tokens=1).ttft_s == 2.5


def test_comments_and_carriage_returns_are_understood() -> None:
    body = b": queued 3\r\n\r\n" + _event("a").replace(b"\n", b"\r\n") + _event(usage=1) + _DONE
    assert judge(_record(_HEAD + _chunk(body) + _END), expected_tokens=1).frames == 1


def test_a_body_that_ends_with_the_connection_is_understood() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    assert judge(_record(head, _event("a") + _event(usage=1) + _DONE), expected_tokens=1).ttft_s == 1.5


@pytest.mark.parametrize(
    ("reads", "complaint"),
    [
        ([_HEAD + _chunk(_event("a") + _event(usage=1) + _DONE) + _END], "1 tokens received, 2 expected"),
        ([_HEAD + _chunk(_event("a") + _DONE) + _END], "None tokens received"),
        ([_HEAD + _chunk(_event("a") + _event(usage=2)) + _END], "without \\[DONE\\]"),
        ([_HEAD + _chunk(_event(usage=2) + _DONE) + _END], "no event carried text"),
        ([_HEAD + _chunk(b'data: {"error": {"message": "lost"}}\n\n') + _END], "error in the stream"),
        ([_HEAD + _chunk(b"data: oops\n\n") + _END], "no JSON"),
        ([_HEAD + _chunk(_event("a"))], "ended within the stream"),
        ([_HEAD + _chunk(_event("a"))[:-20]], "ended within the stream"),
        ([b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}"], "429 Too Many Requests"),
        ([], "before the response headers"),
    ],
)
def test_an_incomplete_or_wrong_stream_is_refused(reads: list[bytes], complaint: str) -> None:
    with pytest.raises(BadStream, match=complaint):
        judge(_record(*reads), expected_tokens=2)


def test_times_between_tokens_are_those_of_events_with_text() -> None:
    record = _record(
        _HEAD + _chunk(_event("")),
        _chunk(_event("a")),
        _chunk(_event("")),
        _chunk(_event("b") + _event("c")),
        _chunk(_event(usage=3) + _DONE) + _END,
    )
    assert judge(record, expected_tokens=3).gaps_s == [2.0, 0.0]
