from __future__ import annotations

import re
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tools import fast_path, run
from tools.demo_model import ROOT
from tools.fast_path import FastPath, prepare
from tools.haproxy_wrapper import NoHaproxy
from tools.serve_log import ServeLog
from tools.serve_session import HaproxyFailed
from tools.serve_target import ServeTarget, StartError, read_target

TARGET = read_target(ROOT / "configs" / "simulated.yaml")


def test_haproxy_is_ready_to_start_with_files_of_its_own(tmp_path: Path) -> None:
    made = prepare(TARGET, tmp_path)
    wrapper = Path(made.environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert wrapper.stat().st_mode & stat.S_IXUSR
    places = [value for name, value in made.environment.items() if re.search("_LOC|_PATH|_STATE_", name)]
    assert len(places) == 7
    assert all(place.startswith(str(tmp_path)) for place in places if "serve_app." not in place)


def test_taken_ports_are_passed_over(tmp_path: Path) -> None:
    usual = prepare(TARGET, tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", usual.statistics_port))
        other.listen()
        beside = prepare(replace(TARGET, port=usual.metrics_port), tmp_path)
    assert beside.statistics_port > usual.statistics_port
    assert beside.metrics_port > usual.metrics_port


def test_no_free_port_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_PORTS_TRIED", 0)
    with pytest.raises(StartError, match="no port from 8404"):
        prepare(TARGET, tmp_path)


@pytest.mark.parametrize(("local", "grpc_host"), [(True, "127.0.0.1"), (False, "192.0.2.7")])
def test_grpc_for_local_clients_is_on_loopback_whatever_the_host(tmp_path: Path, local: bool, grpc_host: str) -> None:
    prepare(replace(TARGET, grpc_is_local=local), tmp_path, host="192.0.2.7")
    assert f"192.0.2.7 {grpc_host} " in (tmp_path / "haproxy").read_text()


class FakeSession:
    """Serves at once, unless HAProxy is said to fail."""

    haproxy_fails = False
    served: list[FastPath | None]

    def __init__(self, _target: ServeTarget, fast: FastPath | None, *_: object) -> None:
        self._fast = fast

    def run(self, when_ready: object) -> None:
        if self._fast and self.haproxy_fails:
            raise HaproxyFailed("no bind line")
        self.served.append(self._fast)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    fake = type("Session", (FakeSession,), {"served": []})
    monkeypatch.setattr(run, "ServeSession", fake)
    monkeypatch.setattr(run, "console", Console(highlight=False, width=1000))
    return fake


def serve(folder: Path, haproxy: bool) -> None:
    run.serve(TARGET, haproxy, ServeLog(folder / "serve.log", show=False), folder)


def test_haproxy_is_used(session: type[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(tmp_path, haproxy=True)
    assert [bool(fast) for fast in session.served] == [True]
    assert "without HAProxy" not in capsys.readouterr().out


def test_without_haproxy_the_loss_is_told(
    session: type[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(tmp_path, haproxy=False)
    assert session.served == [None]
    assert "Serving without HAProxy. HAProxy is off. Each streamed token then costs" in capsys.readouterr().out


@pytest.mark.parametrize("missing", [True, False])
def test_a_haproxy_that_cannot_start_is_done_without(
    session: type[FakeSession],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: bool,
) -> None:
    if missing:

        def write_wrapper(*_: object) -> Path:
            raise NoHaproxy("no bind line")

        monkeypatch.setattr(fast_path, "write_wrapper", write_wrapper)
    session.haproxy_fails = True
    serve(tmp_path, haproxy=True)
    assert session.served == [None]
    shown = capsys.readouterr().out
    assert "Serving without HAProxy. HAProxy cannot start here: no bind line. Each streamed token then costs" in shown
