"""The table of stages names each by its folder and adds what its tests took."""

from __future__ import annotations

import pytest

from tests.support.stage_times import StageTimes, stage_of


@pytest.mark.parametrize(
    ("test_id", "stage"),
    [
        ("tests/unit/core/test_errors.py::test_x", "unit"),
        ("tests/contract/test_vllm_engine.py::TestVllmEngine::test_x[1]", "contract"),
        ("tests/integration/edge/test_proxies.py::test_x", "integration/edge"),
        ("tests/integration/test_ray_metrics.py::test_x", "integration"),
        ("test_alone.py::test_x", "other"),
    ],
)
def test_a_stage_is_a_folder_of_tests(test_id: str, stage: str) -> None:
    assert stage_of(test_id) == stage


def test_setup_counts_as_time_but_not_as_a_test() -> None:
    times = StageTimes(began_at=1000.0)
    for when, start, duration in (("setup", 1010.0, 20.0), ("call", 1030.0, 5.0), ("teardown", 1035.0, 1.0)):
        times.pytest_runtest_logreport(
            pytest.TestReport(
                "tests/unit/test_cli.py::test_x",
                ("", None, ""),
                {},
                "passed",
                None,
                when,  # type: ignore[arg-type]  # a phase by its name
                duration=duration,
                start=start,
                stop=start + duration,
            )
        )
    assert [line.split() for line in times.lines()][1:] == [["unit", "1", "26", "10", "36"]]
