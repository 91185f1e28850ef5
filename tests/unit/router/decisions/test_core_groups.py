"""A pool of several deployments: what has begun at one of them goes on there."""

from __future__ import annotations

import pytest

from serve_app.core.errors import EngineLost
from tests.unit.router.decisions.driven_core import DrivenCore

CPU, GPU = ("a", "b"), ("x", "y")


def mixed_core(*engines: str, capacity: int = 2, **config: object) -> DrivenCore:
    """A pool of two deployments with these replicas."""
    core = DrivenCore(capacity=capacity, **config)
    core.list_replicas(*(engine for engine in engines if engine in CPU), group="cpu")
    core.list_replicas(*(engine for engine in engines if engine in GPU), group="gpu")
    for engine in engines:
        core.report(engine)
    return core


def beside(engine: str) -> str:
    """The other replica of its deployment."""
    group = CPU if engine in CPU else GPU
    return group[1 - group.index(engine)]


@pytest.mark.parametrize("stream_id", range(1, 9))
def test_a_stream_that_has_begun_goes_on_at_its_own_deployment(stream_id: int) -> None:
    core = mixed_core("a", "b", "x", "y", capacity=8)
    for number in range(1, 9):
        core.begin(number, received=3)
    engine = core.running[stream_id].engine_id

    core.lose(engine)

    assert core.running[stream_id].engine_id == beside(engine)
    assert core.running[stream_id].replay
    assert core.running[stream_id].group == ("cpu" if engine in CPU else "gpu")


def test_a_stream_without_a_token_goes_anywhere() -> None:
    core = mixed_core("a", "x")
    engine = core.begin(1, received=0)

    core.lose(engine)

    assert core.engine_of(1) == ("x" if engine == "a" else "a")


def test_who_waits_for_its_own_deployment_holds_nobody_else_up() -> None:
    core = mixed_core("a", "x")
    engine = core.begin(1, received=3)
    free = "x" if engine == "a" else "a"
    core.lose(engine)
    assert core.engine_of(1) is None

    core.offer(2)
    assert core.engine_of(2) == free
    core.report(engine)
    assert core.engine_of(1) == engine
    assert core.model.waiting.count == 0


def test_a_stream_whose_deployment_stays_away_fails_with_what_took_its_replica() -> None:
    core = mixed_core("a", "x", admission={"queue_timeout_s": 10})
    engine = core.begin(1, received=3)
    core.lose(engine)
    for now in range(1, 12):
        core.now = float(now)
        core.report("x" if engine == "a" else "a")
        core.tick(float(now))

    assert core.errors() == {1: EngineLost}
    assert core.model.budget.repeated == 0


def test_a_target_may_name_the_deployments_that_can_compute_it() -> None:
    core = mixed_core("a", "b", "x", "y", capacity=8)
    for stream_id in range(8):
        core.offer(stream_id, groups=frozenset({"gpu"}))

    assert {core.engine_of(stream_id) for stream_id in range(8)} <= set(GPU)
