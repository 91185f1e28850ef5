"""One scrape shows all replicas, as one valid text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from serve_app.telemetry.exposition import ReplicaScrape, merge


def replica_text(value: float, *, label: str = "m") -> bytes:
    registry = CollectorRegistry()
    Counter("vllm:requests", "Requests.", ["model_name"], registry=registry).labels(label).inc(value)
    histogram = Histogram("wait_seconds", "A\nhelp with \\ in it.", ["model"], buckets=[0.1, 1], registry=registry)
    histogram.labels(label).observe(value)
    Summary("size", "Sizes.", registry=registry).observe(value)
    Gauge("temperature", "No labels.", registry=registry).set(value)
    return generate_latest(registry)


def parse(text: bytes) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family appears twice"
    return {family.name: family for family in families}


def values(family: Metric, sample_name: str) -> dict[str, float]:
    return {s.labels["replica"]: s.value for s in family.samples if s.name == sample_name and "le" not in s.labels}


def test_each_sample_carries_its_deployment_and_replica() -> None:
    merged = merge([ReplicaScrape("Router", "r1", replica_text(1)), ReplicaScrape("Engine", "e1", replica_text(2))])

    families = parse(merged.text)
    assert values(families["vllm:requests"], "vllm:requests_total") == {"r1": 1, "e1": 2}
    assert {s.labels["deployment"] for s in families["temperature"].samples} == {"Router", "Engine"}
    assert merged.left_out == ()


def test_help_and_type_appear_once_with_the_family_in_one_piece() -> None:
    text = merge([ReplicaScrape("Router", f"r{i}", replica_text(i)) for i in range(3)]).text.decode()

    assert text.count("# TYPE wait_seconds histogram\n") == 1
    assert text.count("# HELP wait_seconds A\\nhelp with \\\\ in it.\n") == 1
    assert len(parse(text.encode())["wait_seconds"].samples) == 3 * 5


def test_creation_times_are_dropped() -> None:
    assert b"_created" in replica_text(1)
    assert b"_created" not in merge([ReplicaScrape("Router", "r1", replica_text(1))]).text


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(alphabet='\\n"{},=\n replica é'))
def test_merging_keeps_every_label_and_value(label: str, replica: str) -> None:
    original = replica_text(3, label=label)

    merged = merge([ReplicaScrape("Router", replica, original)])

    def samples(text: bytes) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
        return {
            (s.name, frozenset(s.labels.items()), s.value)
            for family in text_string_to_metric_families(text.decode())
            for s in family.samples
            if not s.name.endswith("_created") and s.name != "serve_app_replica_scraped"
        }

    ours = {("deployment", "Router"), ("replica", replica)}
    assert samples(merged.text) == {(name, labels | ours, value) for name, labels, value in samples(original)}


def test_a_samples_own_replica_label_is_kept_under_another_name() -> None:
    text = b'x{a="say replica=",replica="mine",exported_replica="older",b="deployment=\\"q\\""} 1\n'

    (family,) = (f for name, f in parse(merge([ReplicaScrape("Router", "r1", text)]).text).items() if name == "x")
    (sample,) = family.samples
    assert sample.labels == {
        "deployment": "Router",
        "replica": "r1",
        "a": "say replica=",
        "exported_replica": "older",
        "exported_exported_replica": "mine",
        "b": 'deployment="q"',
    }


@pytest.mark.parametrize(
    "rubbish",
    [
        None,
        b"<html><body>502 Bad Gateway</body></html>\n",
        b"\xff\xfe\n",
        b"x 1\nx",
        b"x 1\nx 2",
        b'x{a="b} 1\n',
        b"x{a=1} 1\n",
        b"x one\n",
        b"x 1_0\n",
        b"x 1\r\n",
        b"# TYPE x nonsense\nx 1\n",
        b"x 1\n# TYPE x counter\nx 2\n",
    ],
)
def test_a_replica_that_answers_rubbish_is_left_out_and_named(rubbish: bytes | None) -> None:
    good = ReplicaScrape("Router", "good", replica_text(1))

    merged = merge([ReplicaScrape("Engine", "bad", rubbish), good])

    assert [(one.deployment, one.replica) for one in merged.left_out] == [("Engine", "bad")]
    families = parse(merged.text)
    assert values(families["vllm:requests"], "vllm:requests_total") == {"good": 1}
    assert values(families["serve_app_replica_scraped"], "serve_app_replica_scraped") == {"bad": 0, "good": 1}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_whatever_break_the_text_of_the_others(rubbish: bytes) -> None:
    merged = merge([ReplicaScrape("Engine", "bad", rubbish), ReplicaScrape("Router", "good", replica_text(1))])

    assert values(parse(merged.text)["vllm:requests"], "vllm:requests_total") == {"good": 1}


def test_a_family_whose_type_differs_is_left_out_of_the_later_replica() -> None:
    first = b"# TYPE x gauge\nx 1\n# TYPE y gauge\ny 1\n"
    second = b"# TYPE x counter\nx 2\n# TYPE y gauge\ny 2\n"

    merged = merge([ReplicaScrape("Router", "r1", first), ReplicaScrape("Router", "r2", second)])

    families = parse(merged.text)
    assert values(families["x"], "x") == {"r1": 1}
    assert values(families["y"], "y") == {"r1": 1, "r2": 2}
    assert [one.replica for one in merged.left_out] == ["r2"]


def test_timestamps_special_values_and_trailing_commas_survive() -> None:
    text = b'# some comment\n\nx{a="b",} 1 1700000000000\nx{a="c"} +Inf\nx{ a="d", c="e" } NaN -5\nx{} 4\n'

    lines = merge([ReplicaScrape("Router", "r1", text)]).text.decode().splitlines()

    ours = 'x{deployment="Router",replica="r1"'
    expected = [f'{ours},a="b",}} 1 1700000000000', f'{ours},a="c"}} +Inf', f'{ours},a="d", c="e" }} NaN -5']
    assert [line for line in lines if line.startswith("x")] == [*expected, f"{ours}}} 4"]


def test_an_engine_without_metrics_of_its_own_is_no_failure() -> None:
    merged = merge([ReplicaScrape("Engine", "e1", b"")])

    assert merged.left_out == ()
    assert values(parse(merged.text)["serve_app_replica_scraped"], "serve_app_replica_scraped") == {"e1": 1}


def test_a_family_named_like_a_part_of_a_histogram_stays_its_own() -> None:
    text = b'# TYPE x histogram\nx_bucket{le="+Inf"} 1\nx_sum 2\n# TYPE x_count gauge\nx_count 7\n'

    merged = merge([ReplicaScrape("Router", r, text) for r in ("r1", "r2")]).text.decode()

    assert '# TYPE x_count gauge\nx_count{deployment="Router",replica="r1"} 7\n' in merged
