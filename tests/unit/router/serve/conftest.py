from __future__ import annotations

import pytest

from serve_app.router.serve import live_replicas


@pytest.fixture(autouse=True)
def own_live_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test publishes, and who subscribes, is forgotten at its end: the module keeps it for the whole process."""
    monkeypatch.setattr(live_replicas, "_listed", {})
    monkeypatch.setattr(live_replicas, "_subscribers", {})
