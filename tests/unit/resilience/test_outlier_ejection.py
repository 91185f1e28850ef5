from __future__ import annotations

import random

from serve_app.resilience.outlier_ejection import Ejection, OutlierEjectionConfig

CONFIG = OutlierEjectionConfig(probe_s=5.0, probe_max_s=60.0, probe_share=0.004)
MANY = 1_000_000


def ejected(cold: bool = False) -> Ejection:
    it = Ejection(CONFIG, random.Random(1))
    it.eject(0.0, 0, cold)
    return it


def first_due(it: Ejection, now: float) -> float:
    """When the next probe is due in a busy pool, in seconds from `now`."""
    later = now
    while not it.probe_due(later, MANY, pool_is_full=False):
        later += 0.1
    return later - now


def slow_probe(it: Ejection, now: float) -> None:
    it.probe_sent()
    it.probe_was_slow(now, 0)


def test_intervals_between_slow_probes_double_up_to_their_bound() -> None:
    it = ejected()
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(first_due(it, now))
        now += waits[-1]
        slow_probe(it, now)

    for wait, expected in zip(waits, [5, 10, 20, 40, 60, 60], strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected + 0.1


def test_cold_replica_is_probed_at_a_steady_interval() -> None:
    it = ejected(cold=True)
    slow_probe(it, 0.0)
    slow_probe(it, 0.0)

    assert first_due(it, 0.0) <= 6.1


def test_probes_take_at_most_their_share_of_the_pools_dispatches() -> None:
    it = ejected()

    assert not it.probe_due(10.0, 249, pool_is_full=False)
    assert it.probe_due(10.0, 250, pool_is_full=False)


def test_replica_of_an_idle_pool_is_probed_after_a_while_all_the_same() -> None:
    it = ejected()

    assert not it.probe_due(59.0, 1, pool_is_full=False)
    assert it.probe_due(60.0, 1, pool_is_full=False)


def test_full_pool_probes_its_cold_replica_at_once_and_a_slow_one_in_time() -> None:
    cold, slow = ejected(cold=True), ejected()

    assert cold.probe_due(0.0, 0, pool_is_full=True)
    assert not slow.probe_due(0.0, 0, pool_is_full=True)
    assert slow.probe_due(6.0, 0, pool_is_full=True)


def test_there_is_one_probe_at_a_time() -> None:
    it = ejected()
    it.probe_sent()

    assert not it.probe_due(1000.0, MANY, pool_is_full=True)
    it.probe_told_nothing()

    assert it.probe_due(1000.0, MANY, pool_is_full=False)


def test_replica_that_was_back_for_a_short_while_waits_longer() -> None:
    it = ejected()
    it.end(10.0)
    assert not it.active

    it.eject(20.0, 0, cold=False)

    assert first_due(it, 20.0) >= 0.8 * 10


def test_replica_that_was_well_for_long_starts_with_the_shortest_interval() -> None:
    it = ejected()
    slow_probe(it, 10.0)
    it.end(10.0)

    it.eject(100.0, 0, cold=False)

    assert first_due(it, 100.0) <= 6.1
