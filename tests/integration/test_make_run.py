"""What `make run` starts: the fast path, no listener on any but the configured host, and nothing left when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.client.sync_client import Client
from tests.support.polling import eventually
from tools.demo_model import ROOT
from tools.private_ray import free_ports

pytestmark = pytest.mark.integration

START_S = 240.0
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """`make run` as its user sees it, and its processes."""

    process: subprocess.Popen[bytes]
    url: str
    output: Path

    @property
    def shown(self) -> str:
        return self.output.read_text()

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def listeners(self) -> dict[str, set[str]]:
        """Addresses on which the processes listen, by name of the process."""
        found: dict[str, set[str]] = {}
        for process in self.processes():
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found.setdefault(process.name(), set()).add(each.laddr.ip.removeprefix("::ffff:"))
        return found


@contextmanager
def make_run(folder: Path, *options: str) -> Iterator[Running]:
    """`make run` for the simulated engine, ready; interrupted afterwards, as Ctrl-C does, if it still runs."""
    (port,) = free_ports(1)
    output = folder / "shown.txt"
    command = [sys.executable, "-m", "tools.run", "configs/simulated.yaml", f"--port={port}", *options]
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    running = Running(process, f"http://127.0.0.1:{port}", output)

    def is_ready() -> bool:
        assert process.poll() is None, running.shown
        return "Ctrl-C stops it" in running.shown

    try:
        eventually(is_ready, START_S, "make run is ready")
        yield running
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            process.wait(STOP_S)


@pytest.mark.parametrize("haproxy", [True, False])
def test_all_listens_on_loopback_and_ends_with_an_interrupt(tmp_path: Path, haproxy: bool) -> None:
    with make_run(tmp_path, *([] if haproxy else ["--no-haproxy"])) as running:
        with Client(running.url) as client:
            answer = client.ask("Tell me a story.", max_tokens=8)
        assert answer.text
        assert ("haproxy" in running.listeners()) == haproxy
        assert ("Serving without HAProxy" in running.shown) != haproxy
        if haproxy:
            found = re.search(r"statistics are at port (\d+) under /stats, its metrics at (\d+)", running.shown)
            assert found
            assert httpx.get(f"http://127.0.0.1:{found[1]}/stats").status_code == 200
            assert "haproxy_process_nbthread" in httpx.get(f"http://127.0.0.1:{found[2]}/metrics").text
        assert {ip for addresses in running.listeners().values() for ip in addresses} == {"127.0.0.1"}, (
            running.listeners()
        )
        processes = running.processes()
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(STOP_S) == 0, (running.shown, time.monotonic() - began)
        left = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert not left
