"""Serves a config file from start to Ctrl-C: makes the model, runs `serve run`, tells what happens, cleans up.

python -m tools.run [configs/app.yaml] [--port 8001] [--haproxy] [--verbose]
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from tools.child_process import ChildProcess
from tools.demo_model import DEFAULT_FOLDER as DEMO_FOLDER
from tools.demo_model import ROOT, DemoModelError, make_demo_model
from tools.serve_status import Progress, Stage, look
from tools.serve_target import HAPROXY_PORTS, ServeTarget, StartError, read_target, require_free_port, with_port
from tools.setup_env import has_gpu, read_stamp
from tools.tiny_model import DEFAULT_FOLDER as TINY_FOLDER
from tools.tiny_model import make_tiny_model

LOG = ROOT / ".run" / "serve.log"
LOOK_EVERY_S = 0.5
PLAIN_LINE_EVERY_S = 15.0
STOP_GRACE_S = 15.0
HAPROXY_ENVIRONMENT = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
MODEL_MAKERS = {DEMO_FOLDER: make_demo_model, TINY_FOLDER: make_tiny_model}

console = Console(highlight=False)


class Interrupted(Exception):
    """Ctrl-C, or SIGTERM."""


def default_config() -> Path:
    """The embedded default for what `.venv` was made for."""
    device = read_stamp(ROOT / ".venv").get("device") or ("gpu" if has_gpu() else "cpu")
    return ROOT / "configs" / ("app-gpu.yaml" if device == "gpu" else "app.yaml")


def check_config(target: ServeTarget) -> None:
    """Validate the application's arguments now, not after Ray has started."""
    from serve_app.config import ConfigError, load_config

    try:
        load_config(target.args)
    except ConfigError as error:
        raise StartError(f"{target.config}: {error}") from error


def make_models(target: ServeTarget) -> None:
    """Make those models of ours that the config names and that are missing."""
    for folder in target.model_folders:
        maker = MODEL_MAKERS.get((ROOT / folder).resolve())
        if maker:
            maker()


def environment(haproxy: bool) -> dict[str, str]:
    """The environment in which Ray starts."""
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", **(HAPROXY_ENVIRONMENT if haproxy else {})}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, **ours}


class ServeLog:
    """The output of `serve run`, in a file; shown as it grows when asked to."""

    def __init__(self, path: Path, show: bool) -> None:
        self.path = path
        self._show = show
        self._shown_bytes = 0

    @property
    def text(self) -> str:
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def dashboard_url(self) -> str | None:
        """Address of Ray's dashboard once it is named; its port is not fixed, others may run a Ray beside ours."""
        found = re.search(r"dashboard at.*?(\d+\.\d+\.\d+\.\d+:\d+)", self.text)
        return f"http://{found[1]}" if found else None

    def show_new(self) -> None:
        """Copy what is new to the terminal, if that was asked for."""
        if self._show and self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._shown_bytes)
                new = file.read()
            self._shown_bytes += len(new)
            console.out(new.decode(errors="replace"), end="", highlight=False)


def wait_until_ready(child: ChildProcess, target: ServeTarget, log: ServeLog) -> None:
    """Show how the start goes on until the application is ready. Raises `StartError` when it cannot be."""
    started = time.monotonic()
    next_plain, shown, address = 0.0, "", None
    with httpx.Client(timeout=2.0, trust_env=False) as client, console.status("starting Ray") as status:
        while True:
            log.show_new()
            address = address or log.dashboard_url()
            progress = look(target.url, address, client)
            if progress.stage is Stage.READY:
                break
            if progress.stage is Stage.FAILED or child.exit_code is not None:
                raise StartError(reason(progress, log))
            elapsed = time.monotonic() - started
            line = f"{progress.stage.value}{f' ({progress.detail})' if progress.detail else ''}"
            status.update(f"{escape(line)}, {elapsed:.0f} s")
            if not console.is_terminal and (line != shown or elapsed >= next_plain):
                console.print(f"{escape(line)}, {elapsed:.0f} s")
                next_plain, shown = elapsed + PLAIN_LINE_EVERY_S, line
            time.sleep(LOOK_EVERY_S)
    console.print(f"ready after {time.monotonic() - started:.0f} s")


def reason(progress: Progress, log: ServeLog) -> str:
    """Why serving did not start."""
    told = progress.detail or "`serve run` ended:\n" + "\n".join(log.text.splitlines()[-25:])
    return f"serving did not start\n{told}\n\nmore in {log.path}"


def show_how_to_use(target: ServeTarget, haproxy: bool, log: ServeLog) -> None:
    """Print the address and lines to try it with."""
    url, model = f"{target.url}/v1", target.model_ids[0]
    messages = '[{"role": "user", "content": "What is the capital of France?"}]'
    body = f'{{"model": "{model}", "temperature": 0, "stream": true, "messages": {messages}}}'
    curl = f"curl -N {url}/chat/completions -H 'Content-Type: application/json' \\\n  -d '{body}'"
    interpreter = Path(sys.executable)
    python = (
        f"{interpreter.relative_to(ROOT) if interpreter.is_relative_to(ROOT) else interpreter} -c '"
        f'from openai import OpenAI; client = OpenAI(base_url="{url}", api_key="none"); '
        f'reply = client.chat.completions.create(model="{model}", temperature=0, messages={messages}); '
        "print(reply.choices[0].message.content)'"
    )
    console.print(Panel.fit(f"serving [bold]{', '.join(target.model_ids)}[/bold] at [bold]{url}[/bold]"))
    for title, text in (("curl", curl), ("Python", python)):
        console.print(f"\n[bold]{title}[/bold]")
        console.print(text, markup=False, soft_wrap=True)
    if haproxy:
        console.print(f"\nHAProxy listens on ports {target.port}, 8404 and 9101 of [bold]all[/bold] interfaces.")
    console.print(
        f"\nThe output of `serve run` is in {log.path.relative_to(ROOT)}; Ray's dashboard at {log.dashboard_url()}."
    )
    console.print("Ctrl-C stops it.")


def serve(target: ServeTarget, haproxy: bool, log: ServeLog) -> None:
    """Run `serve run` until it ends or we are interrupted; ends everything that it started."""
    serve_command = str(Path(sys.executable).with_name("serve"))
    child = ChildProcess([serve_command, "run", str(target.config)], environment(haproxy), log.path, ROOT)
    try:
        wait_until_ready(child, target, log)
        show_how_to_use(target, haproxy, log)
        while not child.wait(timeout_s=1.0):
            log.show_new()
        raise StartError(reason(Progress(Stage.FAILED), log))
    finally:
        stop(child)


def stop(child: ChildProcess) -> None:
    """End the child and all that it started. A second Ctrl-C skips the waiting."""
    console.print("stopping")
    try:
        child.interrupt()
        child.wait(timeout_s=STOP_GRACE_S)
        child.end_all(grace_s=5.0)
    except Interrupted:
        child.end_all(grace_s=0.0)
    console.print("stopped; nothing is left running")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, help="Serve config file; default: the one for this device")
    parser.add_argument("--port", type=int, help="HTTP port instead of the config file's")
    parser.add_argument("--haproxy", action="store_true", help="serve through HAProxy with Ray's throughput settings")
    parser.add_argument("--verbose", action="store_true", help="show the output of `serve run` as it comes")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    LOG.parent.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            target = read_target(options.config or default_config())
            check_config(target)
            if options.port:
                target = with_port(target, options.port, Path(scratch))
            require_free_port("0.0.0.0" if options.haproxy else target.host, target.port)
            for port in HAPROXY_PORTS if options.haproxy else ():
                require_free_port("0.0.0.0", port)
            make_models(target)
            serve(target, options.haproxy, ServeLog(LOG, options.verbose))
    except (StartError, DemoModelError) as error:
        console.print(f"\n[bold red]make run:[/bold red] {escape(str(error))}", soft_wrap=True)
        return 1
    except Interrupted:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
