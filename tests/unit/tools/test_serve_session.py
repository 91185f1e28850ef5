from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from serve_app.config import FAST_PATH_ENVIRONMENT
from tools import serve_session
from tools.fast_path import FastPath
from tools.serve_log import OVERLOADED, ServeLog
from tools.serve_session import HaproxyFailed, RayTooSlow, ServeSession, environment
from tools.serve_status import Progress, Stage
from tools.serve_target import ServeTarget, StartError

TARGET = ServeTarget(Path("app.yaml"), "127.0.0.1", 1, None, False, "/", ("a",), (), {})


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
    return ServeSession(TARGET, None, ServeLog(tmp_path / "serve.log", show=False), Console(quiet=True))


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


def test_a_haproxy_that_cannot_start_ends_the_start(child: type[FakeChild], tmp_path: Path) -> None:
    fast = FastPath({}, tmp_path / "failed")
    session = ServeSession(TARGET, fast, ServeLog(tmp_path / "serve.log", show=False), Console(quiet=True))
    fast.failure_file.write_text("its configuration has a form that is not known")
    with pytest.raises(HaproxyFailed, match="not known"):
        session.run(pytest.fail)
    assert (child.started, child.ended) == (1, 1)


def test_ray_is_our_own_on_loopback_and_fast_only_with_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    for name in FAST_PATH_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    plain, fast = environment(TARGET, None), environment(TARGET, FastPath(FAST_PATH_ENVIRONMENT, Path("failed")))
    assert "RAY_ADDRESS" not in plain
    assert plain["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert FAST_PATH_ENVIRONMENT.items() <= fast.items()
    assert not FAST_PATH_ENVIRONMENT.keys() & plain.keys()


@pytest.mark.parametrize("local", [True, False])
def test_grpc_is_on_loopback_where_it_is_local(local: bool) -> None:
    made = environment(replace(TARGET, grpc_is_local=local), None)["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert made == f"serve_app.router.serve.proxy_start:{'prepare' if local else 'speak_http'}"


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
