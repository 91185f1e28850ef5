"""One page for all replicas; routers that do not answer are left out."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from serve_app.router.serve.metrics_page import MetricsPage
from serve_app.telemetry.exposition import ReplicaScrape
from serve_app.telemetry.metrics import ServeMetrics
from tests.unit.router.serve.test_broadcast import HTTP_REQUEST, Routers, answer


def scrape(replica: str) -> ReplicaScrape:
    text = f"# TYPE up gauge\nup {len(replica)}\n"
    return ReplicaScrape("Router", replica, text.encode())


async def text(routers: Any) -> str:
    page = MetricsPage(routers, {}, lambda: scrape("own"), ServeMetrics(CollectorRegistry(), []), 0.5)
    return (await page.text()).decode()


async def test_all_routers_are_on_the_page_once() -> None:
    shown = await text(Routers(answer(scrape("own")), answer(scrape("other"))))
    for replica in ("own", "other"):
        assert shown.count(f'up{{deployment="Router",replica="{replica}"}}') == 1


async def test_a_router_that_fails_costs_no_metrics_of_the_others() -> None:
    shown = await text(Routers(answer(RuntimeError("dead")), answer(scrape("other"))))
    assert 'up{deployment="Router",replica="other"}' in shown
    assert 'up{deployment="Router",replica="own"}' in shown


async def test_the_other_routers_are_asked_outside_of_the_http_request() -> None:
    routers = Routers(answer(scrape("own")))
    HTTP_REQUEST.set("GET /metrics")
    await text(routers)
    assert routers.calls == [("scrape", (), "none")]
