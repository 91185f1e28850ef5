"""`make bench-overhead`: CPU per streamed token of this application, of `vllm serve` and of Ray Serve LLM.

Every stack serves the same tiny model (random weights, real tokenizer) on vLLM's CPU engine, one after the other, each
alone on the machine. Results: one JSON object per line on standard output, tables on standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import our_stacks, peer_env, peers, report
from benchmarks.harness.report import StackReport, Target, percentile
from benchmarks.harness.session import Case, Plan, measure_stacks, say
from benchmarks.harness.stack import Stack

_PEER_STACKS = ("vllm serve", "ray serve llm")
_HELP_STACKS = "serve_app, 'vllm serve', 'ray serve llm', or a title as 'serve_app (plain)'; repeatable (default: all)."


def main(
    stacks: Annotated[list[str] | None, typer.Option(help=_HELP_STACKS)] = None,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Streams at once; repeatable (16 and 64).")] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each stream.")] = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Measured windows of each case; the median counts.")] = 3,
    first_token_requests: Annotated[int, typer.Option(min=0, help="Requests for the first token when idle.")] = 40,
    model_dir: Annotated[Path, typer.Option(help="The tiny model's folder.")] = Path("models/tiny-smollm2"),
    bench_dir: Annotated[Path, typer.Option(help="Folder for the peers' environment and the logs.")] = Path(".bench"),
) -> None:
    """Measure CPU microseconds per streamed token, and the first token when idle."""
    if not (model_dir / "config.json").exists():
        raise typer.BadParameter(f"no model in {model_dir}: make it with `python -m tools.tiny_model`")
    chosen = _choose(stacks or [], model_dir.resolve(), bench_dir.resolve())
    plan = Plan(
        bench="overhead",
        cases=[Case(count, tokens) for count in streams or (16, 64)],
        windows=repeat,
        idle_s=5.0,
        first_token_requests=first_token_requests,
        start_timeout_s=300.0,
        log_dir=bench_dir / "logs",
    )
    reports = measure_stacks(chosen, plan)
    report.print_tables(reports)
    report.print_targets(targets(reports))
    if len(reports) < len(chosen):
        raise typer.Exit(1)


def _choose(wanted: list[str], model_dir: Path, bench_dir: Path) -> list[Stack]:
    every = our_stacks.with_vllm(model_dir)
    if not wanted or any(name.startswith(_PEER_STACKS) for name in wanted):
        say("preparing the peers' environment")
        try:
            python = peer_env.ensure(bench_dir)
        except peer_env.PeerEnvError as error:
            raise typer.BadParameter(str(error)) from error
        every += [peers.vllm_serve(python, model_dir), *peers.ray_serve_llm(python, model_dir)]
    chosen = [stack for stack in every if not wanted or stack.name in wanted or stack.title in wanted]
    if not chosen:
        raise typer.BadParameter(f"no such stack; there are: {', '.join(stack.title for stack in every)}")
    return chosen


def targets(reports: list[StackReport]) -> list[Target]:
    """This application against its peers, wherever both were measured."""
    ours = _find(reports, our_stacks.NAME, our_stacks.FAST)
    alone = _find(reports, "vllm serve", "alone")
    defaults = _find(reports, "ray serve llm", "defaults")
    found: list[Target] = []
    if ours is None:
        return found
    for peer, limit, aim in ((alone, 1.5, 1.0), (defaults, 0.25, None)):
        mine, theirs = _at_64(ours), _at_64(peer)
        if peer is not None and mine is not None and theirs is not None:
            found.append(Target(f"64 streams: CPU per token, times {peer.stack.title}", mine / theirs, limit, aim))
    if alone is not None and ours.first_token is not None and alone.first_token is not None:
        more_s = percentile(ours.first_token.ttft_s, 50) - percentile(alone.first_token.ttft_s, 50)
        found.append(Target("first token when idle, p50: ms over vllm serve", more_s * 1e3, 10.0))
    return found


def _find(reports: list[StackReport], name: str, flags: str) -> StackReport | None:
    return next((each for each in reports if (each.stack.name, each.stack.flags) == (name, flags)), None)


def _at_64(found: StackReport | None) -> float | None:
    cases = found.loads if found else []
    return next((case.us_per_token for case in cases if case.streams == 64), None)


if __name__ == "__main__":
    typer.run(main)
