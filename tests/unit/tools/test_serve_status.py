from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tools.serve_status import Progress, Stage, dashboard_headers, look

APP, DASHBOARD = "http://app", "http://dashboard"
FAILED_REPLICA = "failed 3 times\n" + "".join(f"frame {number}\n" for number in range(20)) + "EngineFailed: no memory"


def client(
    ready: int | None, application: dict[str, Any] | None, seen: list[httpx.Request] | None = None
) -> httpx.Client:
    """A client for an application that answers `ready` (None: nothing listens) and what Ray tells of it."""

    def answer(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        if request.url.host == "dashboard":
            return httpx.Response(200, json={"applications": {"serve_app": application} if application else {}})
        if ready is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(ready)

    return httpx.Client(transport=httpx.MockTransport(answer))


def application(status: str, **deployments: str) -> dict[str, Any]:
    return {"status": status, "deployments": {name: {"status": state} for name, state in deployments.items()}}


def test_nothing_known_yet_is_starting() -> None:
    assert look(APP, None, client(None, None)) == Progress(Stage.STARTING)
    assert look(APP, DASHBOARD, client(None, None)) == Progress(Stage.STARTING)


def test_loading_names_the_deployments_that_are_waited_for() -> None:
    deploying = application("DEPLOYING", Router="HEALTHY", Engine="UPDATING")
    assert look(APP, DASHBOARD, client(None, deploying)) == Progress(Stage.LOADING, "Engine")


def test_an_application_that_admits_while_its_model_loads_is_not_ready() -> None:
    deploying = application("DEPLOYING", Router="HEALTHY", Engine="UPDATING")
    assert look(APP, DASHBOARD, client(200, deploying)).stage is Stage.LOADING


def test_running_and_admitting_is_ready() -> None:
    running = application("RUNNING", Router="HEALTHY", Engine="HEALTHY")
    assert look(APP, DASHBOARD, client(200, running)).stage is Stage.READY
    assert look(APP, DASHBOARD, client(503, running)).stage is Stage.LOADING


def test_a_failed_deployment_is_told_with_the_end_of_its_traceback() -> None:
    failed = {
        "status": "DEPLOY_FAILED",
        "message": "Failed to update the deployments ['Engine'].",
        "deployments": {
            "Engine": {"status": "DEPLOY_FAILED", "message": FAILED_REPLICA},
            "Router": {"status": "HEALTHY", "message": "unrelated"},
        },
    }
    progress = look(APP, DASHBOARD, client(200, failed))
    assert progress.stage is Stage.FAILED
    assert "Engine: failed 3 times" in progress.detail
    assert progress.detail.endswith("EngineFailed: no memory")
    assert "frame 3\n" not in progress.detail
    assert "unrelated" not in progress.detail


def test_the_dashboard_gets_rays_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    seen: list[httpx.Request] = []
    look(APP, DASHBOARD, client(None, None, seen))
    sent = {request.url.host: request.headers.get("Authorization") for request in seen}
    assert sent == {"app": None, "dashboard": "Bearer secret"}


def test_the_token_is_read_from_the_file_that_ray_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert dashboard_headers() == {}
    (tmp_path / "token").write_text("from-file\n")
    assert dashboard_headers() == {"Authorization": "Bearer from-file"}
