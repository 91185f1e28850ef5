"""How far a starting Serve application is, as its HTTP port and Ray's dashboard tell."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import httpx

FAILED_STATUSES = {"DEPLOY_FAILED", "UNHEALTHY"}


class Stage(enum.Enum):
    """Where the start stands."""

    STARTING = "starting Ray"
    DEPLOYING = "starting the replicas"
    LOADING = "loading the model"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the start."""

    stage: Stage
    detail: str = ""


def look(base_url: str, dashboard_url: str | None, client: httpx.Client) -> Progress:
    """Ask the application itself, and Ray's dashboard when the application is not ready. Never raises."""
    try:
        status = client.get(f"{base_url}/ready").status_code
    except httpx.HTTPError:
        status = None
    if status == 200:
        return Progress(Stage.READY)
    deployments = _application(dashboard_url, client) if dashboard_url else None
    if deployments is None:
        return Progress(Stage.STARTING if status is None else Stage.LOADING)
    failed = failure(deployments)
    if failed:
        return Progress(Stage.FAILED, failed)
    waiting = waiting_deployments(deployments)
    return Progress(Stage.LOADING if status is not None else Stage.DEPLOYING, ", ".join(waiting))


def _application(dashboard_url: str, client: httpx.Client) -> dict[str, object] | None:
    try:
        document = client.get(f"{dashboard_url}/api/serve/applications/").json()
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
            messages.append(f"{name}: {deployment.get('message') or ''}")
    return "\n".join(message for message in messages if message) or str(application["status"])


def waiting_deployments(application: dict[str, object]) -> list[str]:
    """Names of the deployments that are not running yet."""
    return [name for name, item in _deployments(application).items() if item.get("status") != "HEALTHY"]


def _deployments(application: dict[str, object]) -> dict[str, dict[str, object]]:
    found = application.get("deployments")
    return found if isinstance(found, dict) else {}
