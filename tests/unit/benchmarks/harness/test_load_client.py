from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness.load_client import LoadPlan, request_bytes, stream_all
from benchmarks.harness.stream_record import judge

_STREAM = (
    b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'
)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    answer = b""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        self.request.recv(65536)
        self.request.sendall(server.answer)
        self.request.recv(1)  # keep the connection open until the client closes it


@contextmanager
def _serving(answer: bytes) -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.answer = answer
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_all_streams_are_recorded_whole_on_connections_that_stay_open() -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(_STREAM), _STREAM)
    with _serving(answer) as port:
        records, wall_s = stream_all(LoadPlan(port, "tiny", streams=5, tokens=1, timeout_s=20.0))
    assert [judge(record, 1).tokens for record in records] == [1] * 5
    assert wall_s < 20.0


def test_a_refusal_ends_the_stream_at_once() -> None:
    with _serving(b'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 13\r\n\r\n{"error": {}}') as port:
        records, wall_s = stream_all(LoadPlan(port, "tiny", streams=1, tokens=1, timeout_s=20.0))
    assert b"".join(records[0].reads).endswith(b'{"error": {}}')
    assert wall_s < 20.0


def test_a_stream_that_stays_silent_ends_with_the_timeout() -> None:
    with _serving(b"HTTP/1.1 200 OK\r\n") as port:
        records, wall_s = stream_all(LoadPlan(port, "tiny", streams=1, tokens=1, timeout_s=0.1))
    assert b"".join(records[0].reads) == b"HTTP/1.1 200 OK\r\n"
    assert wall_s >= 0.1


def test_the_request_asks_for_exactly_the_planned_tokens_and_for_usage() -> None:
    head, body = request_bytes(LoadPlan(8000, "tiny", 4, 128, 1.0), 3).split(b"\r\n\r\n", 1)
    asked = json.loads(body)
    assert f"Content-Length: {len(body)}".encode() in head
    assert (asked["model"], asked["max_tokens"], asked["ignore_eos"]) == ("tiny", 128, True)
    assert asked["stream"] and asked["stream_options"] == {"include_usage": True}


def test_prompts_differ_between_streams() -> None:
    plan = LoadPlan(8000, "tiny", 64, 128, 1.0)
    assert len({request_bytes(plan, index) for index in range(64)}) == 64
