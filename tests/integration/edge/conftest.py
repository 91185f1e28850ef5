"""One application at `/`, as browsers and proxies see it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.applications import application, model
from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import ServedApp

STEP_S = 0.05

EDGE = {
    **application(
        "edge",
        [
            model("steady", concurrency=32, step_s=STEP_S, max_model_len=65_536),
            model("narrow", concurrency=2, step_s=0.02),
        ],
        router={
            "admission": {
                "bands": {"default": {"requests": 6}},
                "when_full": "refuse",
                "queue_timeout_s": 300.0,  # a first token after a minute is waited for here
            }
        },
    ),
    "route_prefix": "/",
}
"""The first model has places for all; the second runs two, and lets a few more wait. One router, so that nobody finds a
place at another one."""


@pytest.fixture(scope="package")
def edge_cluster(cluster: ServeCluster) -> ServeCluster:
    """The cluster, serving `EDGE`."""
    cluster.serve({"applications": [EDGE]})
    return cluster


@pytest.fixture
async def edge(edge_cluster: ServeCluster) -> AsyncIterator[ServedApp]:
    async with ServedApp(edge_cluster, "edge", "") as app:
        yield app
