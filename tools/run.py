"""Serves a config file from start to Ctrl-C: makes the model, runs `serve run`, tells what happens, cleans up.

python -m tools.run [configs/app.yaml] [--port 8001] [--no-haproxy] [--verbose]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from tools.demo_model import DEFAULT_FOLDER as DEMO_FOLDER
from tools.demo_model import ROOT, DemoModelError, make_demo_model
from tools.fast_path import LOSS, FastPath, prepare
from tools.haproxy_wrapper import NoHaproxy
from tools.serve_log import ServeLog
from tools.serve_session import HaproxyFailed, Interrupted, ServeSession
from tools.serve_target import (
    ServeTarget,
    StartError,
    behind_haproxy,
    read_target,
    require_free_port,
    with_port,
)
from tools.setup_env import has_gpu, read_stamp
from tools.tiny_model import DEFAULT_FOLDER as TINY_FOLDER
from tools.tiny_model import make_tiny_model

LOG = ROOT / ".run" / "serve.log"
MODEL_MAKERS = {DEMO_FOLDER: make_demo_model, TINY_FOLDER: make_tiny_model}

console = Console(highlight=False)


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


def serve(target: ServeTarget, haproxy: bool, log: ServeLog, scratch: Path) -> None:
    """Serve until interrupted, through HAProxy if that is wanted and can be."""
    if haproxy:
        try:
            fast = prepare(target, scratch, target.host)
            session = ServeSession(behind_haproxy(target, scratch), fast, log, console)
            return session.run(when_ready=lambda: show_how_to_use(target, fast, log))
        except (NoHaproxy, HaproxyFailed) as error:
            why = f"HAProxy cannot start here: {str(error).rstrip('.')}."
    else:
        why = "HAProxy is off."
    console.print(f"[bold yellow]Serving without HAProxy.[/bold yellow] {escape(why)} {LOSS}", soft_wrap=True)
    ServeSession(target, None, log, console).run(when_ready=lambda: show_how_to_use(target, None, log))


def show_how_to_use(target: ServeTarget, fast: FastPath | None, log: ServeLog) -> None:
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
    grpc = "" if target.grpc_port is None else f", gRPC at [bold]127.0.0.1:{target.grpc_port}[/bold]"
    console.print(Panel.fit(f"serving [bold]{', '.join(target.model_ids)}[/bold] at [bold]{url}[/bold]{grpc}"))
    for title, text in (("curl", curl), ("Python", python)):
        console.print(f"\n[bold]{title}[/bold]")
        console.print(text, markup=False, soft_wrap=True)
    if fast:
        statistics, metrics = fast.statistics_port, fast.metrics_port
        console.print(f"\nHAProxy's statistics are at port {statistics} under /stats, its metrics at {metrics}.")
    details = f"Ray's dashboard is at {log.dashboard_url()}, the output of `serve run` in {log.path.relative_to(ROOT)}."
    console.print(f"\n{details}", soft_wrap=True)
    console.print("Ctrl-C stops it.")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, help="Serve config file; default: the one for this device")
    parser.add_argument("--port", type=int, help="HTTP port instead of the config file's")
    parser.add_argument(
        "--no-haproxy", dest="haproxy", action="store_false", help="serve without HAProxy and Ray's throughput settings"
    )
    parser.add_argument("--verbose", action="store_true", help="show the output of `serve run` as it comes")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    LOG.parent.mkdir(exist_ok=True)
    try:
        # Not in TMPDIR: HAProxy's sockets are in it, whose paths may have a hundred characters.
        with tempfile.TemporaryDirectory(prefix="serve-app-", dir="/tmp") as scratch:
            target = read_target(options.config or default_config())
            check_config(target)
            if options.port:
                target = with_port(target, options.port, Path(scratch))
            require_free_port(target.host, target.port)
            if target.grpc_port is not None:
                require_free_port("0.0.0.0", target.grpc_port, target.port)
            make_models(target)
            serve(target, options.haproxy, ServeLog(LOG, options.verbose), Path(scratch))
    except (StartError, DemoModelError) as error:
        console.print(f"\n[bold red]make run:[/bold red] {escape(str(error))}", soft_wrap=True)
        return 1
    except Interrupted:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
