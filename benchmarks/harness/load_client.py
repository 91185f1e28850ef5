"""The load: many streaming chat completions at once, in a process of its own with next to no work per token.

Speaks JSON lines on standard input and output. For each plan that it reads it answers `{"ready": true}`, waits for a
line `go`, streams everything, answers `{"done": true}` at the last byte, and then the judged result.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness.stream_record import BadStream, ReplayRecord, StreamResult, judge

_LAST_CHUNK = b"\r\n0\r\n\r\n"
_READ_BYTES = 1 << 14
_GATHER_S = 0.002
"""With several streams the client looks for bytes only so often, which halves its own share of the machine."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One measured window: `streams` requests at once, each for exactly `tokens` tokens."""

    port: int
    model: str
    streams: int
    tokens: int
    timeout_s: float
    host: str = "127.0.0.1"


def request_bytes(plan: LoadPlan, index: int) -> bytes:
    """The HTTP request of stream `index`; prompts differ, so that no two answers share more than a prefix."""
    question = f"Request {index}: tell me something about number {index * 7919}."
    body = json.dumps(
        {
            "model": plan.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": plan.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAccept: text/event-stream\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection:
    """One stream being recorded."""

    __slots__ = ("buffer", "record", "socket", "tail")

    def __init__(self, plan: LoadPlan, index: int) -> None:
        self.record = ReplayRecord(started=time.perf_counter())
        self.socket = socket.create_connection((plan.host, plan.port), timeout=plan.timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request_bytes(plan, index))
        self.socket.setblocking(False)
        self.tail = b""

    def read(self) -> bool:
        """Take what has arrived; true when the answer is complete or the connection closed."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        if not data:
            return True
        self.record.reads.append(data)
        self.record.times.append(time.perf_counter())
        self.tail = (self.tail + data)[-len(_LAST_CHUNK) :]
        return self.tail == _LAST_CHUNK or self._is_refusal(data)

    def _is_refusal(self, data: bytes) -> bool:
        """An answer that is no stream: recognised by its status, complete for our purpose once its body began."""
        first = self.record.reads[0]
        return first.startswith(b"HTTP/1.1 ") and not first.startswith(b"HTTP/1.1 200") and data.endswith((b"}", b"\n"))


def stream_all(plan: LoadPlan) -> tuple[list[ReplayRecord], float]:
    """Run the plan's streams at once; their records and the seconds from the first request to the last byte.

    Streams that are not complete after `plan.timeout_s` seconds are recorded as far as they came.
    """
    selector = selectors.DefaultSelector()
    gather_s = _GATHER_S if plan.streams > 1 else 0.0
    began = time.perf_counter()
    deadline = began + plan.timeout_s
    records = []
    for index in range(plan.streams):
        connection = _Connection(plan, index)
        records.append(connection.record)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    while selector.get_map() and (left_s := deadline - time.perf_counter()) > 0:
        for key, _ in selector.select(left_s):
            connection = key.data
            if connection.read():
                selector.unregister(connection.socket)
                connection.socket.close()
        time.sleep(gather_s)
    wall_s = time.perf_counter() - began
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    selector.close()
    return records, wall_s


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _judge_all(records: list[ReplayRecord], plan: LoadPlan) -> tuple[list[StreamResult], list[str]]:
    results, errors = [], []
    for index, record in enumerate(records):
        try:
            results.append(judge(record, plan.tokens))
        except BadStream as error:
            errors.append(f"stream {index}: {error}")
    return results, errors


def main() -> None:
    """Serve plans until standard input ends."""
    for line in sys.stdin:
        plan = LoadPlan(**json.loads(line))
        _say({"ready": True})
        if sys.stdin.readline().strip() != "go":
            return
        try:
            records, wall_s = stream_all(plan)
        except OSError as error:
            _say({"done": True})
            _say({"wall_s": 0.0, "results": [], "errors": [f"cannot send the requests: {error}"]})
            continue
        _say({"done": True})
        results, errors = _judge_all(records, plan)
        _say({"wall_s": wall_s, "results": [asdict(result) for result in results], "errors": errors})


if __name__ == "__main__":
    main()
