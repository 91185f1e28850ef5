"""The soak and the hostile client, in short: they run and nobody loses a stream. Their full length is for a person."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.demo_model import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.nightly, pytest.mark.timeout(600)]


def result(module: str, *options: str) -> dict[str, Any]:
    """The JSON line of a benchmark, whatever it makes of its figures: this machine is not quiet."""
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.stdout, done.stderr
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    found = result("benchmarks.soak", "--minutes=3", f"--picture={tmp_path / 'soak.png'}")
    assert found["kills"] == 0 or found["resumed"] > 0
    assert (found["lost"], found["wrong"], found["answers_5xx"]) == (0, 0, 0), found["details"]
    assert set(found["complete"]) == {
        *("chat", "chat stream", "completion stream", "background response", "socket", "grpc")
    }
    assert (tmp_path / "soak.png").exists()


def test_a_hostile_client_costs_nobody_a_stream() -> None:
    found = result("benchmarks.hostile", "--seconds=15")
    assert found["attempts"] > 100
    assert found["streams_lost"] == 0
