"""Measure a running stack: CPU per streamed token under load, and the first token when idle.

The headline figure holds the same for every stack: user and system CPU time of **all** processes that the stack
started, between the first request sent and the last byte received, divided by the tokens received. Ray's daemons are in
it; vLLM's engine core and the load client are not. The stack's CPU while nobody asks stands beside it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from benchmarks.harness.cpu_accounting import ENGINE_CORE, RAY_DAEMONS, Consumption, Snapshot, consumed, snapshot
from benchmarks.harness.load import LoadClient, LoadOutcome
from benchmarks.harness.load_client import LoadPlan
from benchmarks.harness.stack import RunningStack
from tools import procfs

_STREAM_TIMEOUT_S = 180.0
_FEW_TOKENS = 16
"""Enough that some of them surely show as text: the first ones may be bytes of one character."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window of load."""

    outcome: LoadOutcome
    cpu: Consumption
    client_s: float
    """CPU seconds of the load client."""
    others_s: float
    """CPU seconds that the rest of the machine spent meanwhile: noise."""

    @property
    def us_per_token(self) -> float:
        """CPU microseconds of the serving processes per received token."""
        ray_s = self.cpu.by_role.get(RAY_DAEMONS, 0.0)
        return (self.cpu.serving_s - ray_s) / self.outcome.tokens * 1e6

    @property
    def us_per_token_with_ray(self) -> float:
        """The same with Ray's own daemons and agents, whose CPU time does not depend on the tokens."""
        return self.cpu.serving_s / self.outcome.tokens * 1e6


@dataclass(frozen=True, slots=True)
class LoadCase:
    """Several windows of the same load; figures are medians over windows, latencies are over all streams."""

    streams: int
    tokens_per_stream: int
    windows: list[Window]

    @property
    def us_per_token(self) -> float:
        """Median over the windows."""
        return statistics.median(window.us_per_token for window in self.windows)

    @property
    def us_per_token_with_ray(self) -> float:
        """Median over the windows, Ray's own daemons and agents included."""
        return statistics.median(window.us_per_token_with_ray for window in self.windows)

    @property
    def tokens(self) -> int:
        """Tokens received in all windows."""
        return sum(window.outcome.tokens for window in self.windows)

    @property
    def wall_s(self) -> float:
        """Seconds of all windows."""
        return sum(window.outcome.wall_s for window in self.windows)

    @property
    def tokens_per_s(self) -> float:
        """Tokens received per second over all streams, median over the windows."""
        return statistics.median(window.outcome.tokens / window.outcome.wall_s for window in self.windows)

    @property
    def ttft_s(self) -> list[float]:
        """Seconds to the first token of every stream."""
        return [stream.ttft_s for window in self.windows for stream in window.outcome.streams]

    @property
    def frames_per_token(self) -> float:
        """Events with text per token: below 1 when the stack merged tokens that the client did not get singly."""
        return sum(stream.frames for window in self.windows for stream in window.outcome.streams) / self.tokens

    def us_by_role(self) -> dict[str, float]:
        """CPU microseconds per token of each role over all windows, the engine core included."""
        total = Consumption({})
        for window in self.windows:
            total += window.cpu
        return {role: seconds / self.tokens * 1e6 for role, seconds in sorted(total.by_role.items())}

    @property
    def client_us(self) -> float:
        """CPU microseconds of the load client per token."""
        return sum(window.client_s for window in self.windows) / self.tokens * 1e6

    @property
    def other_cores(self) -> float:
        """Cores that processes outside the stack and the client kept busy: a quiet machine has next to none."""
        return sum(window.others_s for window in self.windows) / self.wall_s


@dataclass(frozen=True, slots=True)
class IdleCase:
    """CPU time of the stack while nobody asks it anything."""

    cpu: Consumption
    wall_s: float

    @property
    def serving_ms_per_s(self) -> float:
        """CPU milliseconds of all serving processes per second."""
        return self.cpu.serving_s / self.wall_s * 1e3


class _Meter:
    """Counters of the stack, the client and the whole machine at two moments."""

    def __init__(self, stack_pid: int, client_pid: int) -> None:
        self._stack_pid = stack_pid
        self._client_pid = client_pid
        self._readings: list[tuple[Snapshot, float, float]] = []

    def read(self) -> None:
        """Take a reading."""
        client = procfs.read(self._client_pid)
        client_s = client.own_s if client else 0.0
        self._readings.append((snapshot(self._stack_pid), client_s, procfs.machine_busy_s()))

    def window(self, outcome: LoadOutcome) -> Window:
        """The window between the last two readings."""
        (before, client_before, busy_before), (after, client_after, busy_after) = self._readings[-2:]
        cpu = consumed(before, after)
        client_s = client_after - client_before
        stack_s = cpu.serving_s + cpu.by_role.get(ENGINE_CORE, 0.0)
        return Window(outcome, cpu, client_s, max(0.0, busy_after - busy_before - client_s - stack_s))


def measure_idle(target: RunningStack, seconds: float) -> IdleCase:
    """CPU of the stack over `seconds` seconds without a request."""
    before = snapshot(target.pid)
    began = time.perf_counter()
    time.sleep(seconds)
    after = snapshot(target.pid)
    return IdleCase(consumed(before, after), time.perf_counter() - began)


def measure_load(target: RunningStack, client: LoadClient, streams: int, tokens: int, repeat: int) -> LoadCase:
    """`repeat` windows of `streams` streams of `tokens` tokens each, started all at once; a short one before warms up.

    Raises `LoadFailed` if any stream is not complete and correct.
    """
    _window(target, client, streams, max(_FEW_TOKENS, tokens // 8))
    return LoadCase(streams, tokens, [_window(target, client, streams, tokens) for _ in range(repeat)])


def measure_first_token(target: RunningStack, client: LoadClient, requests: int, tokens: int = _FEW_TOKENS) -> LoadCase:
    """One short request at a time, `requests` times."""
    for _ in range(3):
        _window(target, client, 1, tokens)
    return LoadCase(1, tokens, [_window(target, client, 1, tokens) for _ in range(requests)])


def _window(target: RunningStack, client: LoadClient, streams: int, tokens: int) -> Window:
    meter = _Meter(target.pid, client.pid)
    plan = LoadPlan(target.port, target.stack.model, streams, tokens, _STREAM_TIMEOUT_S)
    return meter.window(client.run(plan, meter.read, meter.read))
