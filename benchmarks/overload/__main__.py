"""`make bench-overload`: the router's judgement in virtual time, beside baselines and an oracle.

JSON lines go to standard output, tables and progress to standard error, plots and all figures to `--out`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.overload import no_load, report
from benchmarks.overload.gates import NEEDED, Check, Results
from benchmarks.overload.measure import Measured
from benchmarks.overload.policies import OURS, POLICIES
from benchmarks.overload.runner import REFERENCE, pieces, run
from benchmarks.overload.workloads import WORKLOADS, Workload


def main(
    workload: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(w.name for w in WORKLOADS)} or {no_load.NAME}; may repeat.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(POLICIES)}; may repeat. Gates are judged only where all they need was run."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of each workload (the source document's gets 20 times as many). Default: 10."),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes to use; default: one per core.")] = None,
    plots: Annotated[bool, typer.Option(help="Draw the plots.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for the plots.")] = Path("benchmarks/results"),
) -> None:
    """Simulate overload, cold start and failure; exit with status 1 when a gate fails."""
    names = [each.name for each in WORKLOADS] + [no_load.NAME]
    for name in workload or ():
        if name not in names:
            raise typer.BadParameter(f"unknown workload {name!r}; there are {', '.join(names)}")
    for name in policy or ():
        if name not in POLICIES:
            raise typer.BadParameter(f"unknown policy {name!r}; there are {', '.join(POLICIES)}")
    workloads = [each for each in WORKLOADS if not workload or each.name in workload]
    policies = [each for each in POLICIES if not policy or each in policy]
    rows: list[tuple[str, Check]] = []
    no_load_check = None
    if (not workload or no_load.NAME in workload) and OURS in policies:
        no_load_check = no_load.check()  # before the cores are busy
    judged = _judge(workloads, policies, _run(workloads, policies, seeds, processes))
    for each in judged:
        report.console.print(report.table(each))
        for name in each.results.by_policy:
            report.print_line(report.line(each, name))
        rows += [(each.name, check) for check in each.checks]
    if no_load_check is not None:
        report.print_line(report.no_load_line(no_load_check))
        rows.append((no_load.NAME, no_load_check))
    report.console.print(report.gate_table(rows))
    if plots and judged:
        from benchmarks.overload.plots import draw  # matplotlib takes a second to import

        for path in draw(judged, out):
            report.console.print(f"drawn: {path}")
    sys.exit(0 if all(check.holds for _, check in rows) else 1)


def _run(
    workloads: list[Workload], policies: list[str], seeds: int | None, processes: int | None
) -> dict[tuple[str, str], Measured]:
    found: dict[tuple[str, str], Measured] = {}
    todo = pieces(workloads, policies, seeds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=report.console) as progress:
        task = progress.add_task("simulating", total=len(todo))
        for piece, measured in run(todo, processes):
            found.setdefault((piece.workload, piece.policy), Measured()).add(measured)
            progress.update(task, advance=1, description=f"{piece.workload}, {piece.policy}")
    return found


def _judge(
    workloads: list[Workload], policies: list[str], found: dict[tuple[str, str], Measured]
) -> list[report.Judged]:
    return [
        report.judge(
            each.name,
            each.title,
            Results({name: found[each.name, name] for name in policies}, found.get((each.name, REFERENCE))),
            complete=set(policies) >= NEEDED,
        )
        for each in workloads
    ]


if __name__ == "__main__":
    typer.run(main)
