"""The application at `/`, beside those on the simulated engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.edge.applications import EDGE
from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import ServedApp


@pytest.fixture(scope="session")
def edge_cluster(simulated: ServeCluster) -> ServeCluster:
    """The cluster that serves `EDGE`."""
    return simulated


@pytest.fixture
async def edge(edge_cluster: ServeCluster) -> AsyncIterator[ServedApp]:
    async with ServedApp(edge_cluster, EDGE["name"], "") as app:
        yield app
