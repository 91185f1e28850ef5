"""Open-loop load: requests that arrive when they arrive, whatever became of those before, in a process of its own.

It reads one plan as JSON from standard input, sends every request at its time, and writes the judged answers as JSON to
standard output. It only stores bytes and times while the clock runs, and never tries again.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass

from benchmarks.harness.load_client import LoadPlan, request_bytes
from benchmarks.harness.open_loop_answer import Exchange, is_complete, judge_exchange
from benchmarks.harness.stream_record import ReplayRecord

_READ_BYTES = 1 << 16
_GATHER_S = 0.002
"""The client looks for bytes, and for requests that are due, only so often: that halves its share of the machine."""
_LEAD_S = 0.05


@dataclass(frozen=True, slots=True)
class OpenLoopPlan:
    """One run; times are seconds from its begin."""

    port: int
    model: str
    tokens: int
    """That each request asks for and gets, unless it is refused."""
    arrivals_s: list[float]
    """When each request is sent, in ascending order."""
    timeout_s: float
    """From a request's arrival; then the client hangs up."""
    host: str = "127.0.0.1"


class _Connection:
    """One request on a connection of its own, and its answer as far as it came."""

    def __init__(self, plan: OpenLoopPlan, index: int, due: float) -> None:
        record = ReplayRecord(started=due)
        self.exchange = Exchange(plan.arrivals_s[index], record, sent=time.perf_counter())
        self.deadline = due + plan.timeout_s
        self.closed = False
        load = LoadPlan(plan.port, plan.model, 1, plan.tokens, plan.timeout_s, plan.host)
        self._unsent = request_bytes(load, index)
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex((plan.host, plan.port))

    def write(self) -> bool:
        """Send on; true when the whole request is sent. Raises `OSError` if there is no connection."""
        try:
            sent = self.socket.send(self._unsent)
        except BlockingIOError:
            return False
        self._unsent = self._unsent[sent:]
        return not self._unsent

    def read(self) -> bool:
        """Take what has arrived; true when the answer is complete or the server closed the connection."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            return True
        record = self.exchange.record
        record.reads.append(data)
        record.times.append(time.perf_counter())
        return is_complete(record.reads)

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self.socket.close()


class _Loop:
    """All connections of one run."""

    def __init__(self, plan: OpenLoopPlan) -> None:
        self._plan = plan
        self._selector = selectors.DefaultSelector()
        self._open: deque[_Connection] = deque()
        self.exchanges: list[Exchange] = []

    def run(self) -> None:
        """Send everything, and wait for the last answer or timeout."""
        begun = time.perf_counter() + _LEAD_S
        arrivals = deque(enumerate(self._plan.arrivals_s))
        while arrivals or self._open:
            now = time.perf_counter()
            while arrivals and begun + arrivals[0][1] <= now:
                index, arrival_s = arrivals.popleft()
                self._begin(index, begun + arrival_s)
            self._hang_up_on_the_late(now)
            self._move_bytes(self._next_at(arrivals, begun) - now)
            time.sleep(_GATHER_S)
        self._selector.close()

    def _next_at(self, arrivals: deque[tuple[int, float]], begun: float) -> float:
        next_at = [begun + arrivals[0][1]] if arrivals else []
        if self._open:
            next_at.append(self._open[0].deadline)
        return min(next_at, default=0.0)

    def _begin(self, index: int, due: float) -> None:
        connection = _Connection(self._plan, index, due)
        self.exchanges.append(connection.exchange)
        self._open.append(connection)
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)

    def _hang_up_on_the_late(self, now: float) -> None:
        """The oldest is first; those that ended meanwhile leave when it is their turn."""
        while self._open and (self._open[0].closed or self._open[0].deadline <= now):
            connection = self._open.popleft()
            if not connection.closed:
                connection.exchange.why = "timeout"
                self._end(connection)

    def _move_bytes(self, wait_s: float) -> None:
        for key, events in self._selector.select(max(0.0, wait_s)):
            connection: _Connection = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    if connection.write():
                        self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
                elif connection.read():
                    self._end(connection)
            except OSError as error:
                connection.exchange.why = type(error).__name__
                self._end(connection)

    def _end(self, connection: _Connection) -> None:
        connection.exchange.ended = time.perf_counter()
        self._selector.unregister(connection.socket)
        connection.close()


def drive(plan: OpenLoopPlan) -> list[Exchange]:
    """Send the plan's requests at their times; what came back for each, in order of arrival."""
    loop = _Loop(plan)
    loop.run()
    return loop.exchanges


def main() -> None:
    """Run the plan on standard input."""
    plan = OpenLoopPlan(**json.load(sys.stdin))
    answers = [asdict(judge_exchange(exchange, plan.tokens)) for exchange in drive(plan)]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
