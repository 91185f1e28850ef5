from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tools import private_ray

ROOT = Path(__file__).parents[3]


def test_the_configuration_keeps_everything_but_address_and_port(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "http_options": {"port": 8000, "keep_alive_timeout_s": 9},
        "applications": [{"name": "a"}],
    }
    command = private_ray.serve_command(Path("/v/python"), config, 12345, tmp_path)
    written = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    assert written["http_options"] == {"host": "127.0.0.1", "port": 12345, "keep_alive_timeout_s": 9}
    assert written["applications"] == [{"name": "a"}]
    assert config["http_options"]["port"] == 8000
    assert command[:2] == ["bash", "-c"] and str(tmp_path / "serve.yaml") in command[2]


def test_serve_run_joins_the_ray_that_was_started_just_before(tmp_path: Path) -> None:
    script = private_ray.serve_command(Path("/v/python"), {}, 12345, tmp_path)[2]
    port = script.split("--port=")[1].split()[0]
    assert f"--address=127.0.0.1:{port} " in script


def test_free_ports_are_distinct() -> None:
    assert len(set(private_ray.free_ports(20))) == 20


def test_another_process_is_given_none_of_our_ports() -> None:
    # With the same seed it tries the same ports first.
    random.seed(7)
    ours = private_ray.free_ports(20)
    program = "import random; from tools import private_ray; random.seed(7); print(*private_ray.free_ports(20))"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(ours).isdisjoint(map(int, shown.split()))


def test_replica_ports_stay_below_the_highest_port(tmp_path: Path) -> None:
    variables = private_ray.environment(tmp_path)
    low, high = (int(variables[f"RAY_SERVE_DIRECT_INGRESS_{end}_PORT"]) for end in ("MIN_HTTP", "MAX_GRPC"))
    assert low < high <= 65535


def test_a_deployment_that_failed_says_why(tmp_path: Path) -> None:
    logs = tmp_path / "ray" / "session_latest" / "logs" / "serve"
    logs.mkdir(parents=True)
    log = logs / "controller_7.log"
    log.write_text("INFO 2026-11-22 controller 7 -- Deploying new app 'a'.\n")
    assert private_ray.why_deploying_failed(tmp_path) is None
    log.write_text(
        "ERROR 2026-11-22 controller 7 -- Deploying app 'a' failed with exception:\nno such key\nallowed: b\n"
        "INFO 2026-11-22 controller 7 -- going on\n"
    )
    assert private_ray.why_deploying_failed(tmp_path) == "no such key\nallowed: b"


def test_nothing_is_known_before_serve_has_started(tmp_path: Path) -> None:
    assert private_ray.why_deploying_failed(tmp_path) is None
