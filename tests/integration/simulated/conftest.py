"""The applications on the simulated engine, each as a fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import ServedApp


def _served(name: str) -> Any:
    """The fixture of one application of `SIMULATED`."""

    @pytest.fixture(name=name)
    async def app(simulated: ServeCluster) -> AsyncIterator[ServedApp]:
        async with ServedApp(simulated, name, f"/{name}") as served:
            yield served

    return app


pair = _served("pair")
narrow = _served("narrow")
patient = _served("patient")
gated = _served("gated")
sleeper = _served("sleeper")
scaling = _served("scaling")
failover = _served("failover")
