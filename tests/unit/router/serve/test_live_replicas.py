from __future__ import annotations

import pytest

from serve_app.router.serve import live_replicas


def test_late_subscriber_gets_what_is_known_and_then_each_change():
    live_replicas.publish("d1", frozenset({"a"}))
    seen: list[frozenset[str]] = []
    died: list[str] = []
    live_replicas.subscribe("d1", seen.append, died.append)
    live_replicas.publish("d1", frozenset({"a", "b"}))
    live_replicas.publish("other", frozenset({"z"}))
    live_replicas.publish_death("d1", "a")

    assert seen == [frozenset({"a"}), frozenset({"a", "b"})]
    assert died == ["a"]
    assert live_replicas.listed("d1") == frozenset({"a", "b"})


def test_unknown_deployment_lists_nothing_and_publishing_needs_no_subscriber():
    live_replicas.publish_death("nobody", "a")
    assert live_replicas.listed("nobody") == frozenset()


@pytest.mark.parametrize("time", ["first", "second"])
def test_what_one_test_publishes_no_other_sees(time: str) -> None:
    assert live_replicas.listed("d1") == frozenset()
    live_replicas.publish("d1", frozenset({time}))
