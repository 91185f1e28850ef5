"""A private Ray on loopback for one Serve application: own ports, own temporary folder, nothing shared."""

from __future__ import annotations

import random
import re
import secrets
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serve_app.config import FAST_PATH_ENVIRONMENT

FAST_FLAGS = FAST_PATH_ENVIRONMENT
"""HAProxy ingress and Serve's throughput options; they work only if Ray itself starts with them."""

_LOGICAL_CPUS = 16
"""Ray only counts these: every stack's replicas are placed, whatever CPUs they ask for."""
_INGRESS_PORTS = 50
_NEXT_LOG_LINE = re.compile(r"^(?:INFO|WARNING|ERROR) \d{4}-", re.MULTILINE)


_PORTS = range(15_000, 30_000)
"""Below the range from which systems draw ports for outgoing connections, or one of those might take a port between its
choice and its use."""
_claims: dict[int, socket.socket] = {}
"""Ports that this process was given, each with the socket whose name claims it."""


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that are free on loopback now, and that neither this process nor another one was given.

    Ray binds its ports seconds later: without a claim, two clusters that start at once could be given the same one.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        if _claimed(range(port, port + 1)):
            found.append(port)
    return found


def _free_port_range(length: int) -> int:
    """The first of `length` consecutive ports like those of `free_ports`."""
    while True:
        first = random.randrange(_PORTS.start, _PORTS.stop - length)
        if _claimed(range(first, first + length)):
            return first


def _claimed(ports: range) -> bool:
    """Claim all of these ports for as long as this process lives, or none of them."""
    claims: dict[int, socket.socket] = {}
    for port in ports:
        claim = socket.socket(socket.AF_UNIX)
        claims[port] = claim
        try:
            # An abstract name: only one socket of this machine can have it, and it ends with the process.
            claim.bind(f"\0serve_app-port-{port}")
        except OSError:
            break
        if not _is_free(port):
            break
    else:
        _claims.update(claims)
        return True
    for claim in claims.values():
        claim.close()
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def serve_command(python: Path, config: Mapping[str, Any], http_port: int, folder: Path) -> list[str]:
    """Shell command that starts Ray and then runs `serve run` on `config`, with its HTTP port set to `http_port`.

    `folder` takes the written config and Ray's files; Ray's socket paths want it short.
    """
    path = folder / "serve.yaml"
    http_options = {**config.get("http_options", {}), "host": "127.0.0.1", "port": http_port}
    path.write_text(yaml.safe_dump({**config, "http_options": http_options}))
    gcs, dashboard, *agent_ports = free_ports(8)
    options = {
        "port": gcs,
        "node-ip-address": "127.0.0.1",
        "temp-dir": folder / "ray",
        "num-cpus": _LOGICAL_CPUS,
        "object-store-memory": 200_000_000,
        "dashboard-port": dashboard,
        **dict(zip(_AGENT_PORTS, agent_ports, strict=True)),
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    start = [str(python), "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats", *flags]
    run = [str(python), "-m", "ray.serve.scripts", "run", f"--address=127.0.0.1:{gcs}", str(path)]
    return ["bash", "-c", f"{shlex.join(start)} && exec {shlex.join(run)}"]


_AGENT_PORTS = (
    "ray-client-server-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
)


def environment(folder: Path) -> dict[str, str]:
    """Variables that keep Ray on loopback behind a token of its own, and HAProxy's files and all ports apart from
    those of another Serve."""
    stats, metrics, fallback_http, fallback_grpc = free_ports(4)
    low = _free_port_range(2 * _INGRESS_PORTS)
    haproxy = folder / "haproxy"
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray name its node 127.0.0.1, on any system
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(low),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(low + _INGRESS_PORTS - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(low + _INGRESS_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(low + 2 * _INGRESS_PORTS - 1),
    }


def why_deploying_failed(folder: Path) -> str | None:
    """What Serve's controller says if it could not deploy the application; None as long as it has not given up."""
    for log in (folder / "ray" / "session_latest" / "logs" / "serve").glob("controller_*.log"):
        _, found, reason = log.read_text(errors="replace").partition("failed with exception:\n")
        if found:
            return _NEXT_LOG_LINE.split(reason)[0].strip()
    return None
