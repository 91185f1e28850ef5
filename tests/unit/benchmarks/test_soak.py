from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import plot
from benchmarks.soak.meter import Sample
from benchmarks.soak.tally import Tally
from benchmarks.soak.verdict import Verdict, judge

WARM_UP_S, END_S = 60.0, 360.0


def samples(
    growth: float = 0.0, who: str = "router 1", begin_s: float = 0.0, end_s: float = END_S, **held: float
) -> list[Sample]:
    """One a second; all that is held grows linearly by `growth` from the end of warming up to the end."""
    values = {"memory_mb": 200.0, "sockets": 100.0, "files": 120.0, "tasks": 80.0} | held
    found = []
    for second in range(round(begin_s), round(end_s)):
        part = 1 + growth * (second - WARM_UP_S) / (END_S - WARM_UP_S)
        found.append(Sample(float(second), who, {name: value * part for name, value in values.items()}))
    return found


def verdicts(found: list[Sample], tally: Tally | None = None) -> dict[str, Verdict]:
    return {each.claim.split(",")[0]: each for each in judge(found, tally or Tally(), WARM_UP_S, END_S)}


def test_what_stays_holds() -> None:
    assert all(each.holds for each in verdicts([*samples(), *samples(who="engine 2")]).values())


@pytest.mark.parametrize("growth", [0.05, -0.05])
def test_memory_that_moves_by_more_than_two_per_cent_is_not_flat(growth: float) -> None:
    found = verdicts([*samples(), *samples(growth, who="engine 2")])
    assert not found["memory flat"].holds
    assert "engine 2: " in found["memory flat"].detail
    assert found["sockets constant"].holds


def test_tasks_sockets_and_files_that_grow_by_a_fifth_are_not_constant() -> None:
    found = verdicts(samples(0.3))
    assert not any(found[f"{name} constant"].holds for name in ("tasks", "sockets", "files"))


def test_growth_while_warming_up_counts_for_nothing() -> None:
    early = [Sample(each.at_s, each.who, {"memory_mb": 1.0}) for each in samples(end_s=WARM_UP_S)]
    assert verdicts([*early, *samples(begin_s=WARM_UP_S)])["memory flat"].holds


def test_replicas_that_came_or_went_are_not_judged() -> None:
    killed, new = samples(0.5, who="router 3", end_s=200.0), samples(0.5, who="router 4", begin_s=200.0)
    assert verdicts([*samples(), *killed, *new])["memory flat"].holds


def test_a_role_of_which_nobody_lived_through_is_not_judged_to_be_flat() -> None:
    found = verdicts([*samples(), *samples(who="engine 3", end_s=200.0), *samples(who="engine 4", begin_s=200.0)])
    assert not found["memory flat"].holds
    assert not verdicts([])["memory flat"].holds


def test_lost_and_wrong_answers_and_errors_are_told() -> None:
    tally = Tally(lost=["socket 3"])
    tally.judge("grpc", "4", "abc", "abd")
    tally.judge("grpc", "5", "abd", "abd")
    tally.failed("500")
    found = verdicts(samples(), tally)
    assert not any(found[claim].holds for claim in ("0 streams lost", "0 answers wrong", "0 × 5xx"))
    assert "different from 2 on" in found["0 answers wrong"].detail
    assert tally.complete == {"grpc": 1}


def test_errors_right_after_a_kill_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(kills=[1000.0])
    monkeypatch.setattr("time.monotonic", lambda: 1019.0)
    tally.failed("500")
    monkeypatch.setattr("time.monotonic", lambda: 1021.0)
    tally.failed("503")
    assert (tally.errors_near_kills, tally.errors) == ({"500": 1}, {"503": 1})


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    path = plot.draw(
        [*samples(), *samples(who="engine 2", tasks=0.0)], [100.0], WARM_UP_S, tmp_path / "new" / "soak.png"
    )
    assert path.read_bytes().startswith(b"\x89PNG")
