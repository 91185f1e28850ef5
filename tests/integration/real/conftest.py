"""The shipped default, `configs/app.yaml`: real vLLM on the CPU with SmolLM2."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.applications import shipped_config
from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import ServedApp


@pytest.fixture(scope="package")
def shipped(cluster: ServeCluster) -> ServeCluster:
    """The cluster, serving the shipped config."""
    cluster.serve(shipped_config("app.yaml"))
    return cluster


@pytest.fixture
async def app(shipped: ServeCluster) -> AsyncIterator[ServedApp]:
    async with ServedApp(shipped, "serve_app", "") as app:
        yield app
