"""Ray's environment for the fast path: HAProxy with Ray Serve's throughput settings, everything on one host.

env $(python -m tools.fast_path [configs/app.yaml]) serve run [configs/app.yaml]
"""

from __future__ import annotations

import argparse
import shlex
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model import ROOT
from tools.haproxy_listeners import AS_HTTP, LOOPBACK
from tools.haproxy_wrapper import VARIABLE, require_running, write_wrapper
from tools.serve_target import ServeTarget, StartError, read_target

LOSS = (
    "Each streamed token then costs five times the CPU or more, and with 64 streams the first one takes four times as "
    "long."
)
HAPROXY_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""As `serve_app.config.FAST_PATH_ENVIRONMENT`, which this tool cannot import before the packages are installed."""
LOCAL_RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray then names its node 127.0.0.1, on any system, and its own ports listen there only."""
_AT_START = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PLAIN_HTTP = {_AT_START: "serve_app.router.serve.proxy_start:speak_http"}
"""Serve's proxy ignores offers of other protocols, and sends HTTP/1.0 clients no chunks; as router replicas do."""
LOCAL_GRPC = {_AT_START: "serve_app.router.serve.proxy_start:prepare"}
"""And has its gRPC port on loopback; router and engine replicas see to theirs themselves."""
_STATISTICS_PORT = "RAY_SERVE_HAPROXY_STATS_PORT"
_METRICS_PORT = "RAY_SERVE_HAPROXY_METRICS_PORT"
_USUAL_PORTS = {
    _STATISTICS_PORT: 8404,
    _METRICS_PORT: 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}
_PORTS_TRIED = 100


@dataclass(frozen=True, slots=True)
class FastPath:
    """HAProxy as it will be started."""

    environment: Mapping[str, str]
    failure_file: Path
    """Says why HAProxy could not be started, once it could not."""

    @property
    def statistics_port(self) -> int:
        return int(self.environment[_STATISTICS_PORT])

    @property
    def metrics_port(self) -> int:
        return int(self.environment[_METRICS_PORT])


def prepare(target: ServeTarget, folder: Path, host: str = AS_HTTP) -> FastPath:
    """Write HAProxy's wrapper, and choose its files in `folder` and free ports. Raises `NoHaproxy`.

    HAProxy listens on `host`, by default on that of Serve's HTTP; for gRPC on loopback where only local clients are to
    be served.
    """
    failure_file = folder / "haproxy-failed"
    failure_file.unlink(missing_ok=True)
    grpc_host = LOOPBACK if target.grpc_is_local else host
    wrapper = write_wrapper(folder / "haproxy", host, grpc_host, failure_file)
    require_running(wrapper)
    taken: set[int] = {target.port, *([] if target.grpc_port is None else [target.grpc_port])}
    ports = {}
    for name, usual in _USUAL_PORTS.items():
        taken.add(port := _free_port(usual, taken))
        ports[name] = str(port)
    # Ray's default is a folder in /tmp that belongs to whoever was first, with an administrator's socket for everyone.
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    }
    places = {name: str(folder / file) for name, file in files.items()}
    return FastPath({**HAPROXY_ENVIRONMENT, **LOCAL_GRPC, **ports, **places, VARIABLE: str(wrapper)}, failure_file)


def _free_port(usual: int, taken: set[int]) -> int:
    """The first free port from the usual one on, so that several applications can run on one machine."""
    for port in range(usual, usual + _PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in taken:
            return port
    raise StartError(f"no port from {usual} to {usual + _PORTS_TRIED - 1} is free")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "configs" / "app.yaml")
    target = read_target(parser.parse_args().config)
    folder = Path(tempfile.mkdtemp(prefix="serve-app-", dir="/tmp"))
    for name, value in {**LOCAL_RAY, **prepare(target, folder).environment}.items():
        print(f"{name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
