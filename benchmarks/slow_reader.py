"""`make bench-slow-reader`: what a client that reads one byte a second costs the others.

50 fast streams alone, then beside a resumable stream of many MiB whose client reads a byte a second, so that its
socket's and the proxy's buffers fill. Prints the fast streams' tokens per
second of both and the router's memory, then reads on where the slow client was cut and checks that nothing is missing.
Results: one JSON object on standard output, a table on standard error.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.harness import our_stacks
from benchmarks.harness.load import LoadClient
from benchmarks.harness.load_client import LoadPlan
from benchmarks.harness.report import console
from benchmarks.harness.stack import RunningStack, running
from benchmarks.stream_memory import router_kb
from tools.private_ray import free_ports

_FAST_STREAMS = 50
_STEP_S = 0.02
_SLOW_MODEL = "long"
_SLOW_MODEL_STEP_S = 0.0015
"""The slow client's stream comes from an engine of its own that is fast, so that many MiB come in a minute."""
_WANTED_RATIO = 0.95
_EVENT_ID = re.compile(rb"^id: (\S+)\.(\d+)\r?$", re.MULTILINE)
_TIMEOUT_S = 120.0


class SlowClient:
    """Asks for one long resumable stream and reads a byte of it each second, in a thread of its own."""

    def __init__(self, stack: RunningStack, tokens: int) -> None:
        self._stack = stack
        self._body = json.dumps(_body(tokens)).encode()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._crawl, daemon=True)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._received = bytearray()

    def start(self) -> None:
        """Send the request, and crawl."""
        self._socket.connect(("127.0.0.1", self._stack.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{_header_lines(self._body)}\r\n"
        self._socket.sendall(head.encode() + self._body)
        self._thread.start()

    def read_all(self) -> bytes:
        """Stop crawling: everything that was on its way when the stream was cut, or ended."""
        self._stopped.set()
        self._thread.join()
        self._socket.settimeout(_TIMEOUT_S)
        try:
            while data := self._socket.recv(1 << 20):
                self._received += data
                if data.endswith(b"0\r\n\r\n"):
                    break
        except ConnectionResetError:
            pass
        self._socket.close()
        return bytes(self._received)

    def resume(self, event_id: str) -> bytes:
        """What follows `event_id`."""
        connection = http.client.HTTPConnection("127.0.0.1", self._stack.port, timeout=_TIMEOUT_S)
        headers = {"Content-Type": "application/json", "X-Stream-Resume": "true", "Last-Event-ID": event_id}
        connection.request("POST", "/v1/chat/completions", self._body, headers)
        return connection.getresponse().read()

    def _crawl(self) -> None:
        while not self._stopped.wait(1.0):
            self._received += self._socket.recv(1)


def main(
    tokens: Annotated[
        int, typer.Option(min=500, help="Length of the slow stream; a token has about 280 bytes.")
    ] = 50_000,
    seconds: Annotated[float, typer.Option(min=5.0, help="Length of each measured window, in seconds.")] = 10.0,
    logs: Annotated[Path, typer.Option(help="Folder for the output of the application.")] = Path(".bench/logs"),
) -> None:
    """Measure 50 fast streams without and beside a slow reader, in turns."""
    engine = {"load_s": 0.1, "step_s": _STEP_S}
    long = {"load_s": 0.1, "step_s": _SLOW_MODEL_STEP_S, "max_model_len": 65_536}
    router = {"replicas": {"slow_start": {"founder_places": 2 * _FAST_STREAMS}}}
    stack = next(
        each
        for each in our_stacks.simulated(engine, router=router, others={_SLOW_MODEL: long})
        if each.flags == our_stacks.FAST
    )
    with running(stack, free_ports(1)[0], logs / "slow-reader.log", 120.0) as served, LoadClient() as load:
        plan = LoadPlan(served.port, stack.model, _FAST_STREAMS, round(seconds / _STEP_S), _TIMEOUT_S)
        _tokens_per_s(load, LoadPlan(served.port, stack.model, _FAST_STREAMS, 100, _TIMEOUT_S))  # warm-up
        # As long as the slow stream will take: a router grows in its first minutes, whoever its clients are.
        alone: list[float] = []
        started = time.monotonic()
        while not alone or time.monotonic() - started < tokens * _SLOW_MODEL_STEP_S:
            alone.append(_tokens_per_s(load, plan))
        memory = [router_kb(served.pid)]
        slow = SlowClient(served, tokens)
        slow.start()
        started = time.monotonic()
        beside: list[float] = []
        while len(beside) < 2 or time.monotonic() - started < tokens * _SLOW_MODEL_STEP_S:
            beside.append(_tokens_per_s(load, plan))
            memory.append(router_kb(served.pid))
        first = unchunked(slow.read_all())
        alone.append(_tokens_per_s(load, plan))
        cut = b"[DONE]" not in first
        last_id, position = _EVENT_ID.findall(first)[-1]
        rest = slow.resume(f"{last_id.decode()}.{position.decode()}") if cut else b""
        whole = slow.resume(f"{last_id.decode()}.0")
    # A token that completes no character has no event; the first event, before any token, is not sent again.
    complete = (_EVENT_ID.findall(first) + _EVENT_ID.findall(rest))[1:] == _EVENT_ID.findall(whole)
    complete = complete and b"[DONE]" in first + rest
    ratio = sum(beside) / len(beside) / (sum(alone) / len(alone))
    line = {
        "bench": "slow-reader",
        "stack": "serve_app",
        "fast_streams": _FAST_STREAMS,
        "fast_tokens_per_s_alone": round(sum(alone) / len(alone), 1),
        "fast_tokens_per_s_beside": round(sum(beside) / len(beside), 1),
        "ratio": round(ratio, 4),
        "wanted_ratio": _WANTED_RATIO,
        "slow_stream_mib": round((len(first) + len(rest)) / 2**20, 1),
        "sent_before_cut_mib": round(len(first) / 2**20, 1),
        "cut": cut,
        "resumed_complete": complete,
        "router_mb": [round(kb / 1024, 1) for kb in memory],
    }
    print(json.dumps(line), flush=True)
    table = Table("", "", title="one slow reader among 50 fast streams", show_header=False)
    for name, value in line.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    if not complete:
        raise typer.Exit(1)


def unchunked(response: bytes) -> bytes:
    """The body of a raw HTTP response in chunks, as far as it came."""
    body, at = bytearray(), response.index(b"\r\n\r\n") + 4
    while (line_end := response.find(b"\r\n", at)) > 0:
        size = int(response[at:line_end], 16)
        body += response[line_end + 2 : line_end + 2 + size]
        at = line_end + 2 + size + 2
    return bytes(body)


def _tokens_per_s(load: LoadClient, plan: LoadPlan) -> float:
    outcome = load.run(plan, lambda: None, lambda: None)
    return outcome.tokens / outcome.wall_s


def _body(tokens: int) -> dict[str, Any]:
    return {
        "model": _SLOW_MODEL,
        "messages": [{"role": "user", "content": "A very long story, please."}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def _header_lines(body: bytes) -> str:
    return f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX-Stream-Resume: true\r\n"


if __name__ == "__main__":
    typer.run(main)
