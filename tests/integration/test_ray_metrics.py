"""Our metrics are seen where Ray's agent shows its own: on its Prometheus endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = r"""
import re, sys, time, urllib.request
import ray
from prometheus_client import CollectorRegistry
from serve_app.core.outcome import RequestOutcome
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.ray_bridge import RayBridge, RayUtilSink

ray.init(
    address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20,
    _temp_dir=sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False,
)
port = ray.nodes()[0]["MetricsExportPort"]
registry = CollectorRegistry()
metrics = ServeMetrics(registry, ["smol"])
bridge = RayBridge(registry, RayUtilSink(), {"deployment": "Router", "replica": "r1"})
for _ in range(2):
    stream = metrics.offered("smol", 0.0)
    stream.dispatched(0.5)
    for now in (1.0, 1.25):
        stream.on_tokens(1, now)
    stream.settled(RequestOutcome.COMPLETED, 2.0, output_tokens=2)
    bridge.copy()
text = ""
for _ in range(100):
    time.sleep(0.2)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        continue
    if re.search(r"ray_serve_app_output_tokens_total\{[^}]*\} 4[.]0", text):
        break
print(text)
ray.shutdown()
"""


@pytest.fixture(scope="module")
def agent_families() -> dict[str, Metric]:
    """What the agent of a small private Ray shows after two streams; in a process of its own, off the default ports."""
    with tempfile.TemporaryDirectory(prefix="sa-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "HOME": folder, "PYTHONPATH": str(ROOT), "RAY_metrics_report_interval_ms": "1000"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", PROGRAM, folder]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {family.name: family for family in text_string_to_metric_families(done.stdout)}


def sample(families: dict[str, Metric], family: str, name: str, **labels: str) -> float:
    wanted = {"deployment": "Router", "replica": "r1", "model": "smol", **labels}.items()
    (value,) = (s.value for s in families[family].samples if s.name == name and wanted <= s.labels.items())
    return float(value)


@pytest.mark.integration
@pytest.mark.slow
def test_rays_agent_shows_counters_with_their_exact_totals(agent_families: dict[str, Metric]) -> None:
    tokens = sample(agent_families, "ray_serve_app_output_tokens", "ray_serve_app_output_tokens_total")
    completed = sample(agent_families, "ray_serve_app_requests", "ray_serve_app_requests_total", outcome="completed")
    assert (tokens, completed) == (4, 2)


@pytest.mark.integration
@pytest.mark.slow
def test_rays_agent_shows_histograms_exactly(agent_families: dict[str, Metric]) -> None:
    name = "ray_serve_app_inter_token_latency_seconds"
    assert sample(agent_families, f"{name}_sum", f"{name}_sum") == 0.5
    assert sample(agent_families, f"{name}_count", f"{name}_count") == 2
    assert sample(agent_families, f"{name}_bucket", f"{name}_bucket", le="0.2") == 0
    assert sample(agent_families, f"{name}_bucket", f"{name}_bucket", le="0.3") == 2
