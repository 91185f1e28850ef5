"""`make bench-stream-memory`: memory of the router for each open stream that hardly says anything.

Opens thousands of streams on one router replica over a simulated engine that gives a token every other second, and
reads the router's memory (proportional set size, so shared pages count once) before and after: of ordinary streams,
and of ones that can be resumed. Beside them, in the same way, what Serve itself needs for a stream: an ingress without
a web framework that does nothing, and one that holds a handle call as well. Results: one JSON object per line on
standard output, a table on standard error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.harness import our_stacks
from benchmarks.harness.cpu_accounting import role_of
from benchmarks.harness.report import console
from benchmarks.harness.stack import RunningStack, Stack, running
from tools import procfs
from tools.private_ray import free_ports

_ROUTER = "replica serve_app:Router"
_WANTED_KB = 30.0
_WARM_UP_STREAMS = 100
_OPENING_AT_ONCE = 50
_SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to ask for a stream, and of whom."""

    name: str
    stack: Stack
    headers: Mapping[str, str]


def main(
    streams: Annotated[int, typer.Option(min=1, help="Streams open at the same time.")] = 2000,
    only: Annotated[list[str] | None, typer.Option(help="Kinds to measure, by name; can be repeated.")] = None,
    step_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two tokens of a stream.")] = 2.0,
    logs: Annotated[Path, typer.Option(help="Folder for the output of the application.")] = Path(".bench/logs"),
) -> None:
    """Measure the router's memory per open stream."""
    places = streams + _WARM_UP_STREAMS
    engine = {"load_s": 0.1, "max_running": places, "kv_capacity_tokens": 1000 * places, "step_s": step_s}
    router = {
        # Between two of its slow steps everything new waits in the engine: that is no sign of overload here.
        "replicas": {"slow_start": {"founder_places": places}, "limit": {"waiting_fraction": float(places)}},
        "first_token_objectives_s": {"default": None},
        "max_prefill_backlog_s": 3600.0,
    }
    stacks = our_stacks.simulated(engine, places, router)
    ours = next(stack for stack in stacks if stack.flags == our_stacks.FAST)
    kinds = (
        Kind("alone", our_stacks.bare(places, step_s, holds_calls=False), {}),
        Kind("with-call", our_stacks.bare(places, step_s, holds_calls=True), {}),
        Kind("ordinary", ours, {}),
        Kind("resumable", ours, {"X-Stream-Resume": "true"}),
    )
    table = Table("stack", "streams", "kind", "before, MB", "with them, MB", "KB per stream", title="router memory")
    for kind in (kind for kind in kinds if not only or kind.name in only):
        with running(kind.stack, free_ports(1)[0], logs / f"stream-memory-{kind.name}.log", 120.0) as running_stack:
            before, after = asyncio.run(_measure(running_stack, kind, streams))
        each_kb = (after - before) / streams
        shown = (f"{kb:.1f}" for kb in (before / 1024, after / 1024, each_kb))
        table.add_row(kind.stack.name, str(streams), kind.name, *shown)
        line = {"bench": "stream-memory", "stack": kind.stack.name, "kind": kind.name, "streams": streams}
        print(json.dumps({**line, "kb_per_stream": round(each_kb, 1), "wanted_kb": _WANTED_KB}), flush=True)
    console.print(table)


async def _measure(stack: RunningStack, kind: Kind, streams: int) -> tuple[float, float]:
    """The router's memory in KB without streams, and with `streams` of them open."""
    warm_up = await _open(stack, kind, _WARM_UP_STREAMS)  # what is allocated once and kept: connection pools, caches
    before = await _settled_kb(stack)
    opened = await _open(stack, kind, streams)
    after = await _settled_kb(stack)
    for writer in (*warm_up, *opened):
        writer.close()
    return before, after


async def _open(stack: RunningStack, kind: Kind, count: int) -> list[asyncio.StreamWriter]:
    at_once = asyncio.Semaphore(_OPENING_AT_ONCE)
    done = 0

    async def one() -> asyncio.StreamWriter:
        nonlocal done
        async with at_once:
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
            body = {
                "model": stack.stack.model,
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 512,
                "ignore_eos": True,
                "stream": True,
            }
            data = json.dumps(body).encode()
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(data))}
            lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **kind.headers}.items())
            writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + data)
            # The semaphore holds back connections, not first tokens, which come with the next slow step.
            await writer.drain()
        status = await reader.readline()
        if b" 200 " not in status:
            raise typer.BadParameter(f"a stream was refused: {await reader.read(2000)!r}")
        done += 1
        if done % 200 == 0:
            console.print(f"{kind.name}: {done} of {count} streams have begun")
        return writer

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _settled_kb(stack: RunningStack) -> float:
    await asyncio.sleep(_SETTLE_S)
    return router_kb(stack.pid)


def router_kb(root: int) -> float:
    """Proportional set size of the router replica below process `root`, in KB."""
    for process in procfs.descendants(root):
        if role_of(process.name, procfs.command_line(process.pid)) == _ROUTER:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            return float(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
    raise typer.BadParameter("the router's process was not found")


if __name__ == "__main__":
    typer.run(main)
