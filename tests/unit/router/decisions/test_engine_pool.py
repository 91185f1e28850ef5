from __future__ import annotations

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.router.decisions.engine_pool import EnginePool


def status(engine_id: str) -> EngineStatus:
    return EngineStatus(engine_id, "m", EngineLoad(), 2, 0, 1, True, 2048)


def known(pool: EnginePool) -> set[str]:
    return {view.engine_id for view in pool.views()}


def test_replica_that_reports_after_it_left_the_list_is_forgotten_when_it_falls_silent() -> None:
    pool = EnginePool(lambda engine_id: None)
    pool.list_replicas(frozenset({"a", "b"}), 0.0)
    pool.report(status("a"), 0.0)
    pool.report(status("b"), 0.0)

    pool.list_replicas(frozenset({"a"}), 0.0)
    pool.report(status("b"), 0.0)
    pool.gone("b")

    assert known(pool) == {"a"}


def test_replica_that_reports_before_serve_lists_it_is_known_but_gets_no_work() -> None:
    pool = EnginePool(lambda engine_id: None)
    pool.report(status("a"), 0.0)

    assert known(pool) == {"a"}
    assert pool.ready() == []
    pool.list_replicas(frozenset({"a"}), 0.0)
    assert [view.engine_id for view in pool.ready()] == ["a"]


def test_lost_replica_is_kept_until_its_streams_are_released() -> None:
    pool = EnginePool(lambda engine_id: None)
    pool.list_replicas(frozenset({"a"}), 0.0)
    pool.report(status("a"), 0.0)
    pool.lease("a", 10)

    pool.list_replicas(frozenset(), 0.0)
    pool.gone("a")
    assert known(pool) == {"a"}
    pool.release("a", 10)

    assert known(pool) == set()


def test_listed_replica_that_falls_silent_is_used_again_once_it_reports() -> None:
    pool = EnginePool(lambda engine_id: None)
    pool.list_replicas(frozenset({"a"}), 0.0)
    pool.report(status("a"), 0.0)

    pool.gone("a")
    assert pool.ready() == []
    pool.report(status("a"), 0.0)

    assert len(pool.ready()) == 1


def test_lists_of_several_deployments_do_not_erase_each_others_replicas() -> None:
    pool = EnginePool(lambda engine_id: None)
    pool.list_replicas(frozenset({"a"}), 0.0, "cpu")
    pool.report(status("a"), 0.0)
    pool.report(status("b"), 0.0)
    pool.list_replicas(frozenset({"b", "c"}), 0.0, "gpu")

    assert {view.engine_id: view.group for view in pool.ready()} == {"a": "cpu", "b": "gpu"}
    assert pool.unheard() == [("c", "gpu")]
    pool.list_replicas(frozenset(), 1.0, "cpu")
    assert known(pool) == {"b"}
    assert not pool.is_empty()
    pool.list_replicas(frozenset(), 1.0, "gpu")
    assert pool.is_empty()
