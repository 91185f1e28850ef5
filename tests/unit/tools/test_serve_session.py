from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tools import serve_session
from tools.serve_log import OVERLOADED, ServeLog
from tools.serve_session import RayTooSlow, ServeSession, environment
from tools.serve_status import Progress, Stage
from tools.serve_target import ServeTarget, StartError


class FakeChild:
    """A `serve run` that writes its output and ends at once."""

    output = ""
    started = 0
    ended = 0

    def __init__(self, _command: list[str], _environment: dict[str, str], output: Path, _cwd: Path) -> None:
        type(self).started += 1
        output.write_text(self.output)

    exit_code = 1

    def interrupt(self) -> None: ...

    def wait(self, timeout_s: float) -> bool:
        return True

    def end_all(self, grace_s: float) -> int:
        type(self).ended += 1
        return 0


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> type[FakeChild]:
    fake = type("Child", (FakeChild,), {})
    monkeypatch.setattr(serve_session, "ChildProcess", fake)
    monkeypatch.setattr(serve_session, "look", lambda *_: Progress(Stage.STARTING))
    return fake


@pytest.fixture
def session(tmp_path: Path) -> ServeSession:
    target = ServeTarget(tmp_path / "app.yaml", "127.0.0.1", 1, None, "/", ("a",), (), {})
    return ServeSession(target, False, ServeLog(tmp_path / "serve.log", show=False), Console(quiet=True))


def test_a_start_that_ends_tells_its_last_output(child: type[FakeChild], session: ServeSession) -> None:
    child.output = "ImportError: no module named nonsense\n"
    with pytest.raises(StartError, match="no module named nonsense"):
        session.run(pytest.fail)
    assert (child.started, child.ended) == (1, 1)


def test_a_ray_that_was_too_slow_is_tried_once_more(child: type[FakeChild], session: ServeSession) -> None:
    child.output = f"Exception: {OVERLOADED}.\n"
    with pytest.raises(RayTooSlow):
        session.run(pytest.fail)
    assert (child.started, child.ended) == (2, 2)


def test_an_application_that_fails_is_not_tried_again(
    child: type[FakeChild], session: ServeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_session, "look", lambda *_: Progress(Stage.FAILED, "Engine: no memory"))
    with pytest.raises(StartError, match="Engine: no memory"):
        session.run(pytest.fail)
    assert (child.started, child.ended) == (1, 1)


def test_a_ready_application_is_announced_and_ended_when_interrupted(
    child: type[FakeChild], session: ServeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_session, "look", lambda *_: Progress(Stage.READY))

    def interrupt_while_serving() -> None:
        raise serve_session.Interrupted

    with pytest.raises(serve_session.Interrupted):
        session.run(interrupt_while_serving)
    assert child.ended == 1


def test_haproxy_flags_are_set_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    monkeypatch.setattr(serve_session, "write_wrapper", lambda: Path("wrapper"))
    assert environment(haproxy=True)["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environment(haproxy=True)["RAY_SERVE_HAPROXY_BINARY_PATH"] == "wrapper"
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment(haproxy=False)


def test_log_names_the_dashboard_through_terminal_colours(tmp_path: Path) -> None:
    log = ServeLog(tmp_path / "serve.log", show=False)
    assert log.dashboard_url() is None
    log.path.write_text("View the dashboard at \x1b[1m\x1b[32mhttp://127.0.0.1:8266 \x1b[39m\n")
    assert log.dashboard_url() == "http://127.0.0.1:8266"


def test_log_is_shown_once_as_it_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ServeLog(tmp_path / "serve.log", show=True)
    log.path.write_text("one\n")
    log.show_new()
    log.path.write_text("one\ntwo\n")
    log.show_new()
    assert capsys.readouterr().out == "one\ntwo\n"
