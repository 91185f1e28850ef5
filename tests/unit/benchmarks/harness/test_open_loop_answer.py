from __future__ import annotations

import pytest

from benchmarks.harness.open_loop_answer import Answer, End, Exchange, is_complete, judge_exchange
from benchmarks.harness.stream_record import ReplayRecord

_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
_ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
_TEXT = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
_END = b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'
_BUSY = b'HTTP/1.1 429 Too Many Requests\r\nContent-Length: 13\r\n\r\n{"error": {}}'


def _exchange(*reads: bytes, why: str = "") -> Exchange:
    """Arrived at 100.0, sent 0.25 s later; a read arrives each second after that."""
    times = [101.0 + second for second in range(len(reads))]
    record = ReplayRecord(100.0, list(reads), times)
    return Exchange(arrival_s=7.0, record=record, sent=100.25, ended=101.0 + len(reads), why=why)


def _judge(*reads: bytes, why: str = "") -> Answer:
    return judge_exchange(_exchange(*reads, why=why), tokens=1)


def test_a_complete_answer_has_its_tokens_and_a_first_token_counted_from_the_arrival() -> None:
    answer = _judge(_HEAD + _ROLE, _TEXT, _END)
    assert (answer.end, answer.status, answer.tokens) == (End.ANSWERED, 200, 1)
    assert (answer.arrival_s, answer.ttft_s, answer.duration_s, answer.sent_late_s) == (7.0, 2.0, 4.0, 0.25)


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Service Unavailable"])
def test_a_busy_server_refused(status: bytes) -> None:
    answer = _judge(b"HTTP/1.1 " + status + b'\r\n\r\n{"error": "full"}')
    assert (answer.end, answer.why, answer.duration_s) == (End.REFUSED, '{"error": "full"}', 2.0)


def test_any_other_status_is_a_failure() -> None:
    assert _judge(b"HTTP/1.1 500 Oh\r\n\r\n{}").end is End.FAILED
    assert _judge(b"HTTP/1.1 404 Not Found\r\n\r\n{}").end is End.FAILED


def test_an_answer_that_the_client_gave_up_is_a_failure_with_the_first_token_it_had() -> None:
    answer = _judge(_HEAD + _ROLE, _TEXT, _TEXT, why="timeout")
    assert (answer.end, answer.why, answer.ttft_s, answer.tokens) == (End.FAILED, "timeout", 2.0, 0)


def test_a_stream_cut_short_or_ended_by_an_error_is_a_failure() -> None:
    assert _judge(_HEAD + _TEXT).end is End.FAILED
    assert _judge(_HEAD + _TEXT + b'data: {"error": {"message": "lost"}}\n\n').end is End.FAILED


def test_an_empty_text_is_no_first_token() -> None:
    assert _judge(_HEAD + _ROLE, why="timeout").ttft_s is None


def test_no_answer_at_all_is_a_failure_without_status() -> None:
    answer = _judge(why="ConnectionRefusedError")
    assert (answer.end, answer.status, answer.ttft_s) == (End.FAILED, 0, None)


def test_an_http_answer_is_complete_with_its_last_chunk_or_its_announced_length() -> None:
    assert is_complete([b"HTTP/1.1 200 OK\r\n\r\n5\r\nabcde", b"\r\n0\r\n", b"\r\n"])
    assert is_complete([_BUSY[:40], _BUSY[40:]])
    assert not is_complete([_BUSY[:-1]])
    assert not is_complete([b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 13\r\n"])


def test_a_stream_is_not_complete_before_its_last_chunk() -> None:
    assert not is_complete([_HEAD, b"5\r\nabcde\r\n"])
