"""The application behind the HAProxy ingress with Serve's throughput options, on a Ray of its own: they work only if
Ray starts with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.applications import application, model
from tests.support.serve_cluster import ServeCluster
from tests.support.served_app import ServedApp
from tools.haproxy_wrapper import VARIABLE, write_wrapper
from tools.private_ray import FAST_FLAGS

FAST = application(
    "fast",
    [model("fast", concurrency=32, step_s=0.01, max_model_len=65_536)],
    replicas={"Router": 2},
    router={"stream_buffer_bytes": 65_536, "admission": {"bands": {"default": {"requests": 4}}}},
)


@pytest.fixture(scope="package")
def haproxy_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeCluster]:
    """A private Ray with the environment that `make run` gives it."""
    haproxy = write_wrapper(tmp_path_factory.mktemp("haproxy") / "haproxy")
    cluster = ServeCluster(tmp_path_factory.mktemp("haproxy-cluster"), {**FAST_FLAGS, VARIABLE: str(haproxy)})
    try:
        cluster.serve({"applications": [FAST]})
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
async def fast(haproxy_cluster: ServeCluster) -> AsyncIterator[ServedApp]:
    async with ServedApp(haproxy_cluster, "fast", "/fast") as app:
        yield app
