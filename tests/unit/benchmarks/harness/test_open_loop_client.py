from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness.open_loop_answer import End, judge_exchange
from benchmarks.harness.open_loop_client import OpenLoopPlan, drive

_STREAM = (
    b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'
)
_ANSWER = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(_STREAM), _STREAM)
_REFUSAL = b'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 13\r\n\r\n{"error": {}}'


class _Server(socketserver.ThreadingTCPServer):
    """Answers as its `answers` say, in turn; an empty answer is silence."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answers: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.requests: list[bytes] = []
        self.lock = threading.Lock()


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        request = self.request.recv(65536)
        with server.lock:
            server.requests.append(request)
            answer = server.answers[(len(server.requests) - 1) % len(server.answers)]
        self.request.sendall(answer)
        self.request.recv(1)  # keep the connection open until the client closes it


@contextmanager
def _serving(*answers: bytes) -> Iterator[_Server]:
    with _Server(list(answers)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def _plan(server: _Server, arrivals_s: list[float], timeout_s: float = 20.0) -> OpenLoopPlan:
    return OpenLoopPlan(server.server_address[1], "tiny", 1, arrivals_s, timeout_s)


def test_every_arrival_is_sent_and_recorded_once_in_order() -> None:
    with _serving(_ANSWER) as server:
        exchanges = drive(_plan(server, [0.0, 0.0, 0.01, 0.02]))
        assert len(server.requests) == len({request.split(b"\r\n\r\n", 1)[1] for request in server.requests}) == 4
    assert [exchange.arrival_s for exchange in exchanges] == [0.0, 0.0, 0.01, 0.02]
    assert {judge_exchange(exchange, 1).end for exchange in exchanges} == {End.ANSWERED}


def test_a_request_is_sent_at_its_time_and_not_when_another_has_ended() -> None:
    with _serving(b"") as server:
        exchanges = drive(_plan(server, [0.0, 0.05], timeout_s=0.1))
        assert len(server.requests) == 2
    assert exchanges[1].sent >= exchanges[1].record.started
    assert round(exchanges[1].record.started - exchanges[0].record.started, 6) == 0.05


def test_a_refusal_ends_the_exchange_and_is_not_tried_again() -> None:
    with _serving(_REFUSAL, _ANSWER) as server:
        exchanges = drive(_plan(server, [0.0, 0.05]))
        assert len(server.requests) == 2
    assert sorted(judge_exchange(exchange, 1).end for exchange in exchanges) == [End.ANSWERED, End.REFUSED]


def test_the_client_hangs_up_on_a_silent_server() -> None:
    with _serving(b"HTTP/1.1 200 OK\r\n") as server:
        (exchange,) = drive(_plan(server, [0.0], timeout_s=0.1))
    assert (exchange.why, judge_exchange(exchange, 1).end) == ("timeout", End.FAILED)
    assert exchange.ended - exchange.record.started >= 0.1


def test_a_server_that_is_not_there_is_a_failed_request() -> None:
    with _serving(_ANSWER) as server:
        plan = _plan(server, [0.0])
    (exchange,) = drive(plan)
    assert judge_exchange(exchange, 1).why == "ConnectionRefusedError"
