"""`make bench-overload-peers`: a step to twice the capacity, on this application, `vllm serve` and Ray Serve LLM.

What `vllm serve` gives with its batch always full is the capacity. Then every stack, each alone on the machine, gets
the same requests at the same moments: 0.4 times the capacity, then 5 times that. Nobody tries again. Results: one JSON
object per line on standard output, one table on standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import our_stacks, peer_env, peers
from benchmarks.harness.load import LoadFailed
from benchmarks.harness.overload_report import OverloadReport, Step, print_overload_line, print_overload_table
from benchmarks.harness.overload_run import measure_capacity, measure_overload
from benchmarks.harness.report import Target, console, percentile, print_targets
from benchmarks.harness.session import say
from benchmarks.harness.stack import Stack, StackFailed, running
from tools.private_ray import free_ports

_START_TIMEOUT_S = 300.0
_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_WAIT_POLICY": "PASSIVE"}
_HELP_STACKS = "serve_app, 'vllm serve', 'ray serve llm', or a whole title; repeatable (default: all)."
_HELP_CAPACITY = "Tokens per second taken for the capacity; left out, it is measured on vllm serve."


def main(
    stacks: Annotated[list[str] | None, typer.Option(help=_HELP_STACKS)] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each answer.")] = 128,
    base_share: Annotated[float, typer.Option(help="Share of the capacity that is asked for before the step.")] = 0.4,
    factor: Annotated[float, typer.Option(help="By which the load rises.")] = 5.0,
    base_s: Annotated[float, typer.Option(help="Seconds before the step.")] = 8.0,
    overload_s: Annotated[float, typer.Option(help="Seconds of the higher load.")] = 20.0,
    objective_s: Annotated[float, typer.Option(help="Seconds within which a good answer begins.")] = 2.0,
    timeout_s: Annotated[float, typer.Option(help="Age of a request at which the client hangs up, seconds.")] = 30.0,
    batch: Annotated[int, typer.Option(min=1, help="max_num_seqs of every stack's engine.")] = 64,
    capacity: Annotated[float | None, typer.Option(help=_HELP_CAPACITY)] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    model_dir: Annotated[Path, typer.Option(help="The tiny model's folder.")] = Path("models/tiny-smollm2"),
    bench_dir: Annotated[Path, typer.Option(help="Folder for the peers' environment and the logs.")] = Path(".bench"),
) -> None:
    """Measure goodput and first tokens while twice as much is asked for as can be done."""
    if not (model_dir / "config.json").exists():
        raise typer.BadParameter(f"no model in {model_dir}: make it with `python -m tools.tiny_model`")
    vllm, *others = every = _stacks(model_dir.resolve(), bench_dir.resolve(), batch, objective_s)
    chosen = [each for each in every if not stacks or each.name in stacks or each.title in stacks]
    if not chosen:
        raise typer.BadParameter(f"no such stack; there are: {', '.join(each.title for each in every)}")
    reports: list[OverloadReport] = []
    # Who is to measure the capacity comes first.
    for stack in [vllm, *others]:
        if stack not in chosen and not (stack is vllm and capacity is None):
            continue
        say(f"starting {stack.title}")
        log = bench_dir / "logs" / f"overload-peers-{stack.name}-{stack.flags}.log".replace(" ", "-")
        try:
            with running(stack, free_ports(1)[0], log, _START_TIMEOUT_S) as target:
                if capacity is None:
                    capacity = measure_capacity(target, batch, tokens)
                if stack in chosen:
                    rate = base_share * capacity / tokens
                    step = Step(rate, factor, base_s, overload_s, tokens, objective_s, capacity)
                    reports.append(measure_overload(target, step, seed, timeout_s, log))
                    print_overload_line(reports[-1])
        except (StackFailed, LoadFailed) as error:
            console.print(f"{stack.title}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            if capacity is None:
                break
    print_overload_table(reports)
    print_targets(targets(reports))
    if len(reports) < len(chosen):
        raise typer.Exit(1)


def _stacks(model_dir: Path, bench_dir: Path, batch: int, objective_s: float) -> list[Stack]:
    """All stacks on the same engine options; `vllm serve` is the first."""
    say("preparing the peers' environment")
    try:
        python = peer_env.ensure(bench_dir)
    except peer_env.PeerEnvError as error:
        raise typer.BadParameter(str(error)) from error
    engine = {**peers.ENGINE_OPTIONS, "max_num_seqs": batch}
    # What cannot begin in time is refused at once; all else is the default.
    router = {"first_token_objectives_s": {"default": objective_s}}
    ours = [s for s in our_stacks.with_vllm(model_dir, engine, batch, router) if s.flags == our_stacks.FAST]
    rays = [s for s in peers.ray_serve_llm(python, model_dir, engine) if s.flags != our_stacks.FAST]
    return [in_one_process(peers.vllm_serve(python, model_dir, engine)), *ours, *rays]


def in_one_process(peer: Stack) -> Stack:
    """The peer with vLLM's worker inside the engine's process, where this application has it.

    By itself `vllm serve` starts one process more on the CPU. The two wait for each other in loops of `sched_yield`,
    and on two cores it was seen to stand still for seconds. (Ray Serve LLM sets the executor itself: this does not
    reach it.)
    """
    return replace(peer, environment=lambda folder: {**peer.environment(folder), **_ONE_PROCESS})


def targets(reports: Sequence[OverloadReport]) -> list[Target]:
    """This application against the best of its peers in each figure."""
    ours = next((each for each in reports if each.stack.name == our_stacks.NAME), None)
    theirs = [each for each in reports if each.stack.name != our_stacks.NAME]
    if ours is None or not theirs or not ours.ttft_ms or ours.goodput_tokens_per_s <= 0:
        return []
    goodput = max(each.goodput_tokens_per_s for each in theirs) / ours.goodput_tokens_per_s
    found = [Target("goodput of the best peer, times ours", goodput, 1.0)]
    if p99s := [percentile(each.ttft_ms, 99) for each in theirs if each.ttft_ms]:
        found.append(Target("p99 TTFT, times the best peer's", percentile(ours.ttft_ms, 99) / min(p99s), 1.0))
    found.append(
        Target("p99 TTFT, times the objective", percentile(ours.ttft_ms, 99) / 1e3 / ours.step.objective_s, 1.0)
    )
    return found


if __name__ == "__main__":
    typer.run(main)
