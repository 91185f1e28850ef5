from __future__ import annotations

import pytest

from serve_app.resilience.fairness import VirtualTokenCounter


def backlogged(*tenants: str, weights: dict[str, float] | None = None) -> VirtualTokenCounter:
    counter = VirtualTokenCounter(weights or {})
    for tenant in tenants:
        counter.join(tenant)
    return counter


def serve(counter: VirtualTokenCounter, turns: int, costs: dict[str, float]) -> dict[str, float]:
    served = dict.fromkeys(costs, 0.0)
    for _ in range(turns):
        tenant = counter.least()
        assert tenant is not None
        counter.charge(tenant, costs[tenant])
        served[tenant] += costs[tenant]
    return served


def test_tenants_with_different_request_sizes_get_the_same_tokens():
    served = serve(backlogged("small", "large"), 1100, {"small": 10, "large": 100})

    assert abs(served["small"] - served["large"]) <= 100


def test_a_weight_of_three_gets_three_times_the_tokens():
    served = serve(backlogged("plain", "heavy", weights={"heavy": 3.0}), 400, {"plain": 50, "heavy": 50})

    assert served["heavy"] == pytest.approx(3 * served["plain"], abs=150)


def test_equal_counters_go_to_whoever_waits_longest_for_its_turn():
    counter = backlogged("b", "a")

    assert counter.least() == "b"
    counter.charge("b", 0.0)
    assert counter.least() == "a"


def test_a_tenant_that_was_idle_gets_no_credit_for_it():
    counter = backlogged("steady", "idler")
    counter.leave("idler")
    serve(counter, 100, {"steady": 10})
    counter.join("idler")

    served = serve(counter, 100, {"steady": 10, "idler": 10})

    assert abs(served["steady"] - served["idler"]) <= 10


def test_a_returning_tenant_keeps_what_it_used_above_the_others():
    counter = backlogged("a", "b")
    counter.charge("a", 100)
    counter.leave("a")
    counter.join("a")

    assert counter.counter("a") == 100
    assert counter.least() == "b"


def test_a_tenant_that_joins_an_empty_queue_is_lifted_to_the_one_that_left_last():
    counter = backlogged("alone")
    counter.charge("alone", 1000)
    counter.leave("alone")
    counter.join("newcomer")
    counter.join("alone")

    assert counter.counter("newcomer") == 1000
    served = serve(counter, 100, {"alone": 10, "newcomer": 10})
    assert abs(served["alone"] - served["newcomer"]) <= 10


def test_running_work_alone_does_not_keep_a_tenant_active():
    counter = backlogged("a", "b")
    counter.charge("a", 10)
    counter.leave("a")
    serve(counter, 10, {"b": 10})
    counter.join("a")

    assert counter.counter("a") == counter.counter("b") == 100


def test_a_correction_changes_the_turn_of_an_active_tenant():
    counter = backlogged("a", "b")
    counter.charge("a", 100)
    counter.charge("b", 50)
    assert counter.least() == "b"

    counter.correct("a", -80)
    assert counter.least() == "a"
    counter.correct("a", 200)
    assert counter.least() == "b"


def test_a_correction_is_divided_by_the_weight():
    counter = backlogged("a", weights={"a": 4.0})
    counter.correct("a", 100)

    assert counter.counter("a") == 25


def test_a_correction_reaches_a_tenant_that_has_left():
    counter = backlogged("a", "b")
    counter.leave("a")
    counter.correct("a", 70)
    counter.join("a")

    assert counter.counter("a") == 70


def test_nobody_is_next_when_nobody_waits():
    counter = backlogged("a")
    counter.leave("a")

    assert counter.least() is None
    with pytest.raises(KeyError):
        counter.charge("a", 1)


def test_idle_tenants_take_bounded_memory():
    counter = VirtualTokenCounter({}, keep_idle=10)
    counter.join("steady")
    for number in range(1000):
        counter.join(f"t{number}")
        counter.charge(f"t{number}", number)
        counter.leave(f"t{number}")

    assert len(counter._idle) <= 21
    assert len(counter._heap) <= 100


def test_forgetting_spares_those_who_used_the_most():
    counter = VirtualTokenCounter({}, keep_idle=10)
    counter.join("steady")
    for name, cost in [("hog", 1e6), *((f"t{number}", 1.0) for number in range(100))]:
        counter.join(name)
        counter.charge(name, cost)
        counter.leave(name)

    assert counter.counter("hog") == 1e6


def test_who_is_forgotten_at_the_floor_returns_to_where_the_lift_puts_it():
    counter = VirtualTokenCounter({}, keep_idle=1)
    counter.join("steady")
    for name in ("a", "b", "c"):
        counter.join(name)
        counter.leave(name)
    counter.charge("steady", 500)
    assert "a" not in counter._idle

    counter.join("a")
    assert counter.counter("a") == 500


def test_a_forgotten_tenant_pays_for_work_that_cost_more_than_expected():
    counter = VirtualTokenCounter({}, keep_idle=1)
    counter.join("steady")
    counter.charge("steady", 100)
    counter.correct("gone", 30)
    counter.correct("saved", -30)

    assert counter.counter("gone") == 130
    assert counter.counter("saved") == 100


def test_the_floor_of_an_empty_queue_outlives_forgetting():
    counter = VirtualTokenCounter({}, keep_idle=1)
    for number in range(50):
        counter.join(f"t{number}")
        counter.charge(f"t{number}", 1)
        counter.leave(f"t{number}")

    assert counter.floor() == 50


def test_with_idle_credit_a_returning_tenant_keeps_that_much_of_what_it_left_unused():
    counter = VirtualTokenCounter({}, idle_credit=30)
    for tenant in ("steady", "idler", "brief"):
        counter.join(tenant)
    for tenant, used in (("brief", 90), ("idler", 0)):
        counter.charge(tenant, used)
        counter.leave(tenant)
    counter.charge("steady", 100)

    assert counter.counter("idler") == 70
    assert counter.counter("brief") == 90


def test_an_unknown_tenant_gets_no_idle_credit():
    counter = VirtualTokenCounter({}, idle_credit=30)
    counter.join("steady")
    counter.charge("steady", 100)
    counter.correct("forgotten", -20)

    assert counter.counter("newcomer") == 100
    assert counter.counter("forgotten") == 100


def test_idle_credit_of_one_tenant_does_not_add_to_that_of_the_next():
    counter = VirtualTokenCounter({}, idle_credit=30)
    for tenant in ("steady", "first", "second"):
        counter.join(tenant)
    counter.leave("first")
    counter.leave("second")
    counter.charge("steady", 100)
    for tenant in ("first", "second", "newcomer"):
        counter.join(tenant)

    assert [counter.counter(tenant) for tenant in ("first", "second", "newcomer")] == [70, 70, 100]
