from __future__ import annotations

from benchmarks import overhead
from benchmarks.harness.cpu_accounting import Consumption
from benchmarks.harness.load import LoadOutcome
from benchmarks.harness.measure import IdleCase, LoadCase, Window
from benchmarks.harness.report import StackReport
from benchmarks.harness.stack import Stack
from benchmarks.harness.stream_record import StreamResult


def _case(streams: int, us_per_token: float, ttft_s: float) -> LoadCase:
    result = StreamResult(tokens=100, frames=100, ttft_s=ttft_s, duration_s=1.0)
    cpu = Consumption({"serving": us_per_token * 100 / 1e6})
    return LoadCase(streams, 100, [Window(LoadOutcome(1.0, [result]), cpu, 0.0, 0.0)])


def _report(name: str, flags: str, us_per_token: float, ttft_s: float = 0.02) -> StackReport:
    stack = Stack(name, flags, "tiny", lambda _port, _folder: [])
    loads = [_case(16, 999.0, 0.1), _case(64, us_per_token, 0.1)]
    return StackReport(stack, IdleCase(Consumption({}), 1.0), loads, _case(1, 1.0, ttft_s))


def test_targets_compare_the_fast_configuration_at_64_streams_with_both_peers() -> None:
    found = overhead.targets(
        [
            _report("serve_app", "plain", 500.0),
            _report("serve_app", "haproxy+throughput", 90.0, ttft_s=0.025),
            _report("vllm serve", "alone", 100.0, ttft_s=0.02),
            _report("ray serve llm", "defaults", 900.0),
        ]
    )
    assert [(round(target.measured, 3), target.limit) for target in found] == [
        (0.9, 1.5),
        (0.1, 0.25),
        (5.0, 10.0),
    ]


def test_a_peer_that_was_not_measured_has_no_target() -> None:
    assert overhead.targets([_report("serve_app", "haproxy+throughput", 90.0)]) == []
    assert overhead.targets([_report("vllm serve", "alone", 90.0)]) == []
