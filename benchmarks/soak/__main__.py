"""`make soak`: an hour of everything at 70 % load, with kills; does anything grow, get lost or go wrong?

Two routers behind HAProxy and two simulated engines with 32 places each. 45 clients ask over every protocol, one
question after the other; of the streams one in ten is given up, one in seven is cut and resumed. Every ten minutes the
newest engine and half a minute later the newest router is killed, so that the oldest ones live for the whole time:
they are judged after a sixth of it. A table and a plot, and one JSON object on standard output; exits with 1 unless
everything holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from grpc.aio import insecure_channel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.harness import our_stacks
from benchmarks.harness.report import console
from benchmarks.harness.stack import RunningStack, running
from benchmarks.soak import meter, plot, verdict
from benchmarks.soak.clients import PROTOCOLS, World, client
from benchmarks.soak.meter import ENGINE, ROUTER, Sample
from benchmarks.soak.questions import prepare
from benchmarks.soak.tally import Tally
from tools.private_ray import free_ports

_PLACES = 32
_STEP_S = 0.02
_KILL_EVERY_S = 600.0
_SHORTEST_KILL_EVERY_S = 150.0
"""In shorter soaks. A HAProxy that was replaced holds connections for two minutes more."""
_KEEP_S = 300.0
_LOOKS = 360
_LINES = 20
"""Of progress, where no bar can be shown."""


def main(
    minutes: Annotated[float, typer.Option(min=0.5, max=24 * 60.0, help="How long it takes.")] = 60.0,
    picture: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("benchmarks/results/soak.png"),
    logs: Annotated[Path, typer.Option(help="Folder for the output of the application.")] = Path(".bench/logs"),
) -> None:
    """Ask over every protocol for a long time, while replicas are killed."""
    port, grpc_port = free_ports(2)
    total_s = 60 * minutes
    warm_up_s = total_s / 6
    engine = {"load_s": 0.1, "max_running": _PLACES, "step_s": _STEP_S}
    # Kept answers come and go within the time of warming up, also in a short run.
    router = {"retention": {"keep_s": min(_KEEP_S, warm_up_s / 2)}}
    places = {"Router": 2, "Engine-simulated": 2}
    stacks = our_stacks.simulated(engine, _PLACES, router, grpc_port=grpc_port, replicas=places)
    stack = next(each for each in stacks if each.flags == our_stacks.FAST)
    with running(stack, port, logs / "soak.log", 120.0) as served:
        tally, samples, kills_s = asyncio.run(_soak(served, grpc_port, total_s))
    found = verdict.judge(samples, tally, warm_up_s, total_s)
    path = plot.draw(samples, kills_s, warm_up_s, picture)
    line = {
        "bench": "soak",
        "stack": our_stacks.NAME,
        "minutes": minutes,
        "kills": len(kills_s),
        "complete": dict(tally.complete),
        "left": tally.left,
        "resumed": tally.resumed,
        "refused": tally.refused,
        "lost": len(tally.lost),
        "wrong": len(tally.wrong),
        "answers_5xx": sum(tally.errors.values()),
        "answers_5xx_near_kills": sum(tally.errors_near_kills.values()),
        "holds": {each.claim: each.holds for each in found},
        "details": {each.claim: each.detail for each in found},
    }
    print(json.dumps(line), flush=True)
    table = Table("", "", "", title=f"a soak of {minutes:g} minutes")
    for name in ("complete", "kills", "left", "resumed", "refused", "answers_5xx_near_kills"):
        table.add_row(name.replace("_", " "), "", str(line[name]))
    for each in found:
        table.add_row(each.claim, "[green]yes[/green]" if each.holds else "[red]no[/red]", each.detail)
    console.print(table)
    console.print(f"the plot is in {path}")
    if not all(each.holds for each in found):
        raise typer.Exit(1)


async def _soak(served: RunningStack, grpc_port: int, total_s: float) -> tuple[Tally, list[Sample], list[float]]:
    """Everything at once, for `total_s` seconds; what the clients saw, what the replicas held, when one was killed."""
    url = f"http://127.0.0.1:{served.port}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=len(PROTOCOLS))
    tally, samples, rng = Tally(), [], random.Random(0)
    loop = asyncio.get_running_loop()
    async with (
        httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits, trust_env=False) as http,
        insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        world = World(url, http, channel, await prepare(http, served.stack.model), tally)
        began = loop.time()
        end = began + total_s

        async def watch() -> None:
            next_line_s = 0.0
            with _progress() as progress:
                bar = progress.add_task("soaking", total=total_s, told="")
                while (now := loop.time()) < end:
                    at_s = now - began
                    samples.extend(await asyncio.to_thread(meter.look, served.pid, at_s))
                    samples.extend(await meter.look_at_tasks(http, at_s))
                    complete, lost, wrong = sum(tally.complete.values()), len(tally.lost), len(tally.wrong)
                    told = f"{complete} answers, {lost} lost, {wrong} wrong, {sum(tally.errors.values())} × 5xx"
                    progress.update(bar, completed=at_s, told=told)
                    if not console.is_terminal and at_s >= next_line_s:
                        console.print(f"{at_s:.0f} s: {told}")
                        next_line_s = at_s + total_s / _LINES
                    await asyncio.sleep(max(1.0, total_s / _LOOKS))

        async def kill() -> None:
            every_s = max(_SHORTEST_KILL_EVERY_S, min(_KILL_EVERY_S, total_s / 6))
            for number in range(1, round(total_s / every_s)):
                for role, delay_s in ((ENGINE, 0.0), (ROUTER, every_s / 20)):
                    await asyncio.sleep(began + number * every_s + delay_s - loop.time())
                    if len(found := meter.replicas(served.pid)[role]) > 1:
                        tally.kills.append(time.monotonic())
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(found[-1].pid, signal.SIGKILL)

        async with asyncio.TaskGroup() as group:
            for protocol, (_, count) in PROTOCOLS.items():
                for _ in range(count):
                    group.create_task(client(world, protocol, end, random.Random(rng.random())))
            group.create_task(watch())
            group.create_task(kill())
    return tally, samples, [at - began for at in tally.kills]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
    )


if __name__ == "__main__":
    typer.run(main)
