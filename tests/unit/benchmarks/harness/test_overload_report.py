from __future__ import annotations

from benchmarks.harness.open_loop_answer import Answer, End
from benchmarks.harness.overload_report import OverloadReport, Step, overload_line
from benchmarks.harness.overload_run import arrivals
from benchmarks.harness.stack import Stack

_STEP = Step(
    base_rate=10.0,
    factor=5.0,
    base_s=4.0,
    overload_s=10.0,
    tokens=100,
    objective_s=2.0,
    capacity_tokens_per_s=100.0,
)


def _answered(arrival_s: float, ttft_s: float = 1.0, duration_s: float = 3.0) -> Answer:
    return Answer(arrival_s, End.ANSWERED, 200, duration_s, 0.0, ttft_s, tokens=100)


def _refused(arrival_s: float, duration_s: float = 0.01) -> Answer:
    return Answer(arrival_s, End.REFUSED, 429, duration_s, 0.0)


def _failed(arrival_s: float, ttft_s: float | None = None) -> Answer:
    return Answer(arrival_s, End.FAILED, 200, 30.0, 0.0, ttft_s, why="timeout")


def _report(*answers: Answer) -> OverloadReport:
    return OverloadReport(Stack("ours", "fast", "tiny", lambda _port, _folder: []), _STEP, answers)


def test_goodput_counts_complete_answers_that_began_within_the_objective() -> None:
    assert _report(_answered(5.0), _answered(6.0)).goodput_tokens_per_s == 20.0
    assert _report(_answered(5.0, ttft_s=2.0)).goodput_tokens_per_s == 10.0
    assert _report(_answered(5.0, ttft_s=2.01)).goodput_tokens_per_s == 0.0
    assert _report(_failed(5.0, ttft_s=1.0), _refused(5.0)).goodput_tokens_per_s == 0.0


def test_only_tokens_that_flow_in_the_overload_phase_count() -> None:
    half_before = _answered(2.0, ttft_s=1.0, duration_s=3.0)  # text from 3 s to 5 s
    quarter_within = _answered(12.5, ttft_s=1.0, duration_s=3.0)  # from 13.5 s to 15.5 s, while the phase ends at 14 s
    assert _report(half_before).goodput_tokens_per_s == 5.0
    assert _report(quarter_within).goodput_tokens_per_s == 2.5
    assert _report(_answered(0.0), _answered(13.9)).goodput_tokens_per_s == 0.0


def test_an_answer_in_one_piece_counts_where_it_came() -> None:
    assert _report(_answered(4.0, ttft_s=1.0, duration_s=1.0)).goodput_tokens_per_s == 10.0
    assert _report(_answered(13.5, ttft_s=1.0, duration_s=1.0)).goodput_tokens_per_s == 0.0


def test_the_ratio_is_over_the_capacity() -> None:
    assert _report(_answered(5.0), _answered(6.0)).goodput_ratio == 0.2


def test_counts_and_first_tokens_are_those_of_the_overload_phase() -> None:
    line = overload_line(
        _report(
            _answered(1.0, ttft_s=0.1),
            _failed(1.5),
            _answered(4.0, ttft_s=1.5),
            _answered(5.0, ttft_s=2.5),
            _failed(6.0, ttft_s=20.0),
            _failed(7.0),
            _refused(8.0, 0.02),
            _refused(9.0, 0.01),
        )
    )
    assert (line["offered"], line["good"], line["late"], line["refused"], line["failed"]) == (6, 1, 1, 2, 2)
    assert (line["ttft_ms_p50"], line["ttft_ms_p99"], line["ttft_ms_p99_before"]) == (2500.0, 20000.0, 100.0)
    assert (line["refusal_ms_p99"], line["failed_before"]) == (20.0, 1)


def test_a_line_without_answers_says_so() -> None:
    line = overload_line(_report(_refused(5.0)))
    assert (line["bench"], line["stack"], line["flags"]) == ("overload-peers", "ours", "fast")
    assert (line["ttft_ms_p99"], line["goodput_ratio"], line["ttft_ms_p99_before"]) == (None, 0.0, None)


def test_arrivals_are_the_same_each_time_and_step_up_by_the_factor() -> None:
    found = arrivals(_STEP, seed=1)
    assert found == arrivals(_STEP, seed=1) != arrivals(_STEP, seed=2)
    assert found == sorted(found)
    assert found[0] >= 0.0 and found[-1] < _STEP.end_s
    before = sum(at < _STEP.base_s for at in found)
    assert 25 <= before <= 55  # 40 are expected
    assert 430 <= len(found) - before <= 570  # 500 are expected
