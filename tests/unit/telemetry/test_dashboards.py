"""The dashboard and the alerts ask only for metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.outcome import RequestOutcome
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.router.decisions.replica import ReplicaSnapshot
from serve_app.telemetry.channel_metrics import SentCounts, sent_text
from serve_app.telemetry.engine_gauges import BREAKER_STATE_VALUES
from serve_app.telemetry.exposition import ReplicaScrape, merge
from serve_app.telemetry.metrics import ServeMetrics

ROOT = Path(__file__).resolve().parents[3]
DASHBOARDS = ROOT / "dashboards"


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """All that a scrape of a busy app shows."""
    metrics = ServeMetrics(CollectorRegistry(), ["m"])
    metrics.publish_engines([EngineStatus("e", "m", EngineLoad(), 1, 1, 1, True, 0)])
    metrics.publish_replicas({"m": [ReplicaSnapshot("e", 1, 1.0, BreakerState.CLOSED, False, 0)]})
    metrics.scrape_left_out("Engine")
    engine = ReplicaScrape("Engine", "e1", sent_text(SentCounts()))
    merged = merge([ReplicaScrape("Router", "r1", metrics.text()), engine])
    families = text_string_to_metric_families(merged.text.decode())
    return [sample for family in families for sample in family.samples]


@pytest.fixture(scope="module")
def exposed(samples: list[Sample]) -> dict[str, set[str]]:
    """The labels of every sample name."""
    return {sample.name: set(sample.labels) for sample in samples}


def dashboard_queries() -> Iterator[str]:
    dashboard = json.loads((DASHBOARDS / "serve_app.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def alert_queries() -> Iterator[str]:
    for group in yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


@pytest.mark.parametrize("query", [*dashboard_queries(), *alert_queries()])
def test_a_query_names_only_metrics_and_labels_that_a_scrape_shows(query: str, exposed: dict[str, set[str]]) -> None:
    names = re.findall(r"\bserve_app_\w+", query)
    assert names
    assert set(names) <= exposed.keys()

    allowed = set.union(*(exposed[name] for name in names))
    used = {label for labels in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", query) for label in labels.split(", ")}
    used |= set(re.findall(r'[{,]\s*(\w+)\s*(?:=|!=|=~|!~)\s*"', query))
    assert used <= allowed


def test_alerts_name_only_outcomes_that_exist() -> None:
    named = {o for q in alert_queries() for found in re.findall(r'outcome=~?"([\w|]+)"', q) for o in found.split("|")}

    assert named
    assert named <= {outcome.value for outcome in RequestOutcome}


def test_alerts_name_only_reasons_that_exist(samples: list[Sample]) -> None:
    for query in alert_queries():
        for name, named in re.findall(r'(serve_app_\w+)\{reason=~?"([\w|]+)"', query):
            exist = {sample.labels["reason"] for sample in samples if sample.name == name}
            assert set(named.split("|")) <= exist


def test_the_dashboard_names_the_states_of_a_breaker_by_their_values() -> None:
    dashboard = json.loads((DASHBOARDS / "serve_app.json").read_text())
    (panel,) = (p for p in dashboard["panels"] if "serve_app_engine_breaker_state" in str(p.get("targets")))

    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    named = {shown["text"].replace("-", "_"): int(value) for value, shown in mapping["options"].items()}
    assert named == BREAKER_STATE_VALUES


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((DASHBOARDS / "serve_app.json").read_text())["panels"]:
        place = panel["gridPos"]
        rows, columns = range(place["y"], place["y"] + place["h"]), range(place["x"], place["x"] + place["w"])
        cells = {(y, x) for y in rows for x in columns}
        assert not cells & taken, panel["title"]
        assert max(columns) < 24
        taken |= cells


def test_the_dashboard_shows_every_metric(exposed: dict[str, set[str]]) -> None:
    shown = {name for query in dashboard_queries() for name in re.findall(r"\bserve_app_\w+", query)}

    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert families == {re.sub(r"_bucket$", "", name) for name in shown}


def test_the_metrics_page_explains_every_metric(exposed: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()

    explained = set(re.findall(r"`(serve_app_\w+)`", page))
    assert explained == {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}


@pytest.mark.parametrize("name", ["ttft", "tpot", "stream_duration", "connection_drops", "concurrent_streams"])
def test_the_metrics_page_is_found_by_the_usual_names(name: str) -> None:
    assert name in (ROOT / "docs" / "metrics.md").read_text()
