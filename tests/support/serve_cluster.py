"""A private Ray on loopback that serves applications, used as users do: `serve run`, `serve deploy` and HTTP."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.polling import eventually
from tools import private_ray, procfs
from tools.serve_log import OVERLOADED
from tools.serve_status import failure, waiting_deployments

ROOT = Path(__file__).resolve().parents[2]
SERVICER_FUNCTION = "serve_app.ingress.grpc.server:add_local_services"
START_TIMEOUT_S = 240.0
"""Long enough for torch, vLLM and a dozen replicas to start on two busy cores."""
_STOP_TIMEOUT_S = 30.0
_LOG_TAIL_LINES = 30
_MAX_STARTS = 2
"""Ray gives its own processes 30 s: on a busy machine the first try may be too short."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One running replica, as Ray's dashboard tells."""

    replica_id: str
    pid: int


class ServeCluster:
    """One Ray for many configs: each `serve` replaces what is served, so that Ray starts only once.

    Processes live below a supervisor that ends them all, so nothing is left when `stop` returns.
    """

    def __init__(self, logs: Path, variables: Mapping[str, str] | None = None) -> None:
        """`logs` takes the output and Serve's logs; Ray starts with `variables` in its environment."""
        # Ray's socket paths are limited to about 100 characters: pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="sa-it-", dir="/tmp"))
        self._logs = logs
        self._output = logs / "serve_run.log"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's default of 15 lets replicas starve beside the tests of the other worker, which compute at 0.
            "RAY_worker_niceness": "0",
            "HF_HUB_OFFLINE": "1",
            **private_ray.environment(self.folder),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(self.folder / "haproxy" / "metrics.sock"),
            **(variables or {}),
        }
        self.environment.pop("RAY_ADDRESS", None)
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._starts = 0
        self._config: Mapping[str, Any] | None = None
        self._port, self._grpc_port = private_ray.free_ports(2)
        self.url = f"http://127.0.0.1:{self._port}"
        self.grpc_target = f"127.0.0.1:{self._grpc_port}"
        """The gRPC services of all applications; the metadata `application` says which."""
        self.dashboard_url = ""
        self._client = httpx.Client(
            timeout=10.0,
            trust_env=False,
            headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"},
        )

    # --- what is served

    def serve(self, config: Mapping[str, Any]) -> None:
        """Serve exactly the applications of `config`; returns once all run. Does nothing when they do already."""
        if self._process is None:
            self._run(config)
        elif self._config != config:
            self.deploy(config)
        self._config = config
        eventually(self._all_running, START_TIMEOUT_S, "the applications run")

    def deploy(self, config: Mapping[str, Any]) -> None:
        """What `serve deploy` does: hand the whole config to the controller, and return at once."""
        document = {**self._with_grpc(config), "http_options": {"host": "127.0.0.1", "port": self._port}}
        self._client.put(f"{self.dashboard_url}/api/serve/applications/", json=document).raise_for_status()

    def applications(self) -> dict[str, Any]:
        """The applications by name, as Ray's dashboard shows them."""
        answer = self._client.get(f"{self.dashboard_url}/api/serve/applications/").raise_for_status()
        found: dict[str, Any] = answer.json()["applications"]
        return found

    def replicas(self, application: str, deployment: str) -> list[Replica]:
        """Its running replicas."""
        found = self.applications()[application]["deployments"][deployment]["replicas"]
        return [Replica(each["replica_id"], each["pid"]) for each in found if each["state"] == "RUNNING"]

    def processes(self) -> list[procfs.Process]:
        """Every process that this cluster runs."""
        return procfs.descendants(self._process.pid) if self._process is not None else []

    @property
    def address(self) -> str:
        """Where Ray drivers connect to, as `127.0.0.1:6379`."""
        return self._option("address")

    @property
    def metrics_agent_url(self) -> str:
        """Where Ray's metrics agent shows what it knows to Prometheus."""
        return f"http://127.0.0.1:{self._option('metrics-export-port')}/metrics"

    # --- start and end

    def _run(self, config: Mapping[str, Any]) -> None:
        self._starts += 1
        self._command = private_ray.serve_command(
            Path(sys.executable), self._with_grpc(config), self._port, self.folder
        )
        supervised = [sys.executable, "-m", "tools.supervisor", "--", *self._command]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                supervised,
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.dashboard_url = f"http://127.0.0.1:{self._option('dashboard-port')}"

    def _with_grpc(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Always: Serve's own servers take their options from the first config that it sees."""
        return {**config, "grpc_options": {"port": self._grpc_port, "grpc_servicer_functions": [SERVICER_FUNCTION]}}

    def _option(self, name: str) -> str:
        found: list[str] = re.findall(rf"--{name}=(\S+)", " ".join(self._command))
        return found[0]

    def _all_running(self) -> bool:
        assert self._process is not None and self._config is not None
        if self._process.poll() is not None:
            if self._starts < _MAX_STARTS and OVERLOADED in self._output.read_text(errors="replace"):
                self._run(self._config)
                return False
            raise AssertionError(f"`serve run` ended ({self._process.returncode})\n{self._tail()}")
        try:
            found = self.applications()
        except httpx.HTTPError:
            return False
        wanted = [application["name"] for application in self._config["applications"]]
        for name in wanted:
            if name in found and (reason := failure(found[name])):
                raise AssertionError(f"application {name} failed: {reason}\n{self._tail()}")
        healthy = all(name in found and found[name]["status"] == "RUNNING" for name in wanted)
        return healthy and found.keys() == set(wanted) and not any(waiting_deployments(found[name]) for name in wanted)

    def stop(self) -> None:
        """End every process, keep the logs, and assert that nothing is left."""
        self._client.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        found = self.folder / "ray" / "session_latest" / "logs" / "serve"
        if found.is_dir():
            shutil.copytree(found, self._logs / "serve", dirs_exist_ok=True)
        left = self._left_behind()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"processes were left behind: {left}"

    def _left_behind(self) -> list[str]:
        """Command lines of processes that carry our environment and do not live below the supervisor any more."""
        mark = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                    found.append(f"{entry.name} {procfs.command_line(int(entry.name))}")
            except OSError:
                continue
        return found

    def _tail(self) -> str:
        lines = self._output.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return f"Last lines of {self._output}:\n" + "\n".join(lines)
