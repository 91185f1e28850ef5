from __future__ import annotations

import pytest

from benchmarks.harness.cpu_accounting import ENGINE_CORE, RAY_DAEMONS, Consumption
from benchmarks.harness.load import LoadOutcome
from benchmarks.harness.measure import IdleCase, LoadCase, Window
from benchmarks.harness.report import StackReport, case_line, first_token_line, percentile
from benchmarks.harness.stack import Stack
from benchmarks.harness.stream_record import StreamResult


def _window(serving_s: float, ttft_s: float = 0.05) -> Window:
    """Four streams of 250 tokens each."""
    streams = [StreamResult(tokens=250, frames=200, ttft_s=ttft_s, duration_s=0.5)] * 4
    cpu = Consumption({"haproxy": serving_s, RAY_DAEMONS: 0.01, ENGINE_CORE: 1.0})
    return Window(LoadOutcome(0.5, streams), cpu, client_s=0.02, others_s=0.05)


def _report(*windows: Window) -> StackReport:
    stack = Stack("ours", "plain", "tiny", lambda _port, _folder: [])
    return StackReport(stack, IdleCase(Consumption({RAY_DAEMONS: 0.2}), 2.0), [LoadCase(4, 250, list(windows))])


def test_headline_holds_every_process_but_the_engine_core_and_rays_daemons() -> None:
    line = case_line("overhead", found := _report(_window(0.09)), found.loads[0])
    assert line["us_per_token"] == 90.0
    assert line["us_per_token_with_ray_daemons"] == 100.0
    assert line["us_per_token_by_role"] == {"haproxy": 90.0, RAY_DAEMONS: 10.0}
    assert line["engine_core_us_per_token"] == 1000.0


def test_headline_is_the_median_window() -> None:
    found = _report(_window(0.09), _window(0.89), _window(0.08))
    line = case_line("overhead", found, found.loads[0])
    assert line["us_per_token"] == 90.0
    assert line["us_per_token_windows"] == [90.0, 890.0, 80.0]


def test_a_line_has_what_the_benchmarks_promise() -> None:
    line = case_line("overhead-simulated", found := _report(_window(0.09)), found.loads[0])
    assert (line["bench"], line["stack"], line["flags"], line["streams"]) == ("overhead-simulated", "ours", "plain", 4)
    assert (line["tokens_per_s"], line["ttft_ms_p50"], line["ttft_ms_p99"]) == (2000.0, 50.0, 50.0)
    assert (line["idle_cpu_ms_per_s"], line["frames_per_token"], line["other_cores"]) == (100.0, 0.8, 0.1)


def test_first_token_percentiles_are_over_single_requests() -> None:
    case = LoadCase(1, 8, [_window(0.01, ttft_s=second) for second in (0.01, 0.02, 0.04)])
    line = first_token_line("overhead", _report(), case)
    assert (line["bench"], line["requests"]) == ("overhead-first-token", 3)
    assert (line["ttft_ms_p50"], line["ttft_ms_p99"]) == (20.0, 40.0)


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (51, 3.0), (99, 4.0), (100, 4.0), (0, 1.0)])
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == expected
