"""One Ray for the integration tests of a worker, and what several folders serve on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.simulated.applications import SIMULATED
from tests.support.serve_cluster import ServeCluster

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts Ray Serve; what starts it first waits for it."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(420))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeCluster]:
    """A private Ray with Serve as plain `serve run` gives it."""
    variables = {"RAY_metrics_report_interval_ms": "1000"}
    cluster = ServeCluster(tmp_path_factory.mktemp("plain-cluster"), variables)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def simulated(cluster: ServeCluster) -> ServeCluster:
    """The cluster, serving `SIMULATED`."""
    cluster.serve(SIMULATED)
    return cluster
