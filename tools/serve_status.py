"""How far a starting Serve application is, as its HTTP port and Ray's dashboard tell."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

import httpx

CAUSE_LINES = 6
"""A replica's traceback ends with the cause."""
FAILED_STATUSES = {"DEPLOY_FAILED", "UNHEALTHY"}


class Stage(enum.Enum):
    """Where the start stands."""

    STARTING = "starting Ray"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the start."""

    stage: Stage
    detail: str = ""


def look(base_url: str, dashboard_url: str | None, client: httpx.Client) -> Progress:
    """Ask the application itself and Ray's dashboard. Never raises.

    `/ready` alone does not do: it is true as soon as requests can be admitted, also while the model still loads.
    """
    try:
        admits = client.get(f"{base_url}/ready").status_code == 200
    except httpx.HTTPError:
        admits = False
    application = _application(dashboard_url, client) if dashboard_url else None
    if application is None:
        return Progress(Stage.STARTING)
    failed = failure(application)
    if failed:
        return Progress(Stage.FAILED, failed)
    if admits and application.get("status") == "RUNNING":
        return Progress(Stage.READY)
    return Progress(Stage.LOADING, ", ".join(waiting_deployments(application)))


def dashboard_headers() -> dict[str, str]:
    """What Ray's dashboard asks for since it authenticates: the token that Ray keeps for this user."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and path.exists():
        token = path.read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _application(dashboard_url: str, client: httpx.Client) -> dict[str, object] | None:
    try:
        answer = client.get(f"{dashboard_url}/api/serve/applications/", headers=dashboard_headers())
        document = answer.raise_for_status().json()
        applications = list(document.get("applications", {}).values())
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    return applications[0] if applications and isinstance(applications[0], dict) else None


def failure(application: dict[str, object]) -> str:
    """Why the application cannot start, from Ray's status document; empty when it still may."""
    if application.get("status") not in FAILED_STATUSES:
        return ""
    messages = [str(application.get("message") or "")]
    for name, deployment in _deployments(application).items():
        if deployment.get("status") in FAILED_STATUSES:
            lines = str(deployment.get("message") or "").splitlines()
            messages.append("\n".join([f"{name}: {lines[0] if lines else ''}", *lines[1:][-CAUSE_LINES:]]))
    return "\n".join(message for message in messages if message) or str(application["status"])


def waiting_deployments(application: dict[str, object]) -> list[str]:
    """Names of the deployments that are not running yet."""
    return [name for name, item in _deployments(application).items() if item.get("status") != "HEALTHY"]


def _deployments(application: dict[str, object]) -> dict[str, dict[str, object]]:
    found = application.get("deployments")
    return found if isinstance(found, dict) else {}
