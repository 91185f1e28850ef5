"""What a tenant is told of its share and of the work ahead of it."""

from __future__ import annotations

from itertools import count

import pytest

from serve_app.core.request import Priority
from tests.unit.resilience.small_queue import BATCH, DEFAULT, INTERACTIVE, make_queue, offer, waits

# --- shares


def test_tenant_is_below_its_share_while_others_wait_for_more_work():
    queue = make_queue(tokens=10_000)
    for stream_id in range(3):
        offer(queue, waits(stream_id, "noisy", tokens=100))

    assert queue.is_below_share(DEFAULT, "newcomer")
    assert not queue.is_below_share(DEFAULT, "noisy")
    assert not queue.is_below_share(BATCH, "newcomer"), "nobody waits in that band"
    offer(queue, waits(7, "newcomer", tokens=290))
    assert queue.is_below_share(DEFAULT, "newcomer")
    offer(queue, waits(8, "newcomer", tokens=20))
    assert not queue.is_below_share(DEFAULT, "newcomer")


def test_share_follows_the_tenants_weight():
    queue = make_queue(tokens=10_000, weights={"big": 3.0})
    offer(queue, waits(1, "big", tokens=200))
    offer(queue, waits(2, "small", tokens=100))

    assert queue.is_below_share(DEFAULT, "big")
    assert not queue.is_below_share(DEFAULT, "small")


def test_tenant_is_below_its_share_while_all_it_waits_with_comes_before_what_others_wait_with():
    queue = make_queue(tokens=10_000)
    offer(queue, waits(1, "noisy", tokens=1000))
    offer(queue, waits(2, "noisy", tokens=200))
    offer(queue, waits(3, "victim", tokens=300))
    queue.take(1, 0.0)

    assert queue.is_below_share(DEFAULT, "victim"), "it waits with more than the other, which was just served"
    assert queue.tokens_ahead(DEFAULT, "victim") == 300, "none of the other's work"
    offer(queue, waits(4, "victim", tokens=800))
    assert not queue.is_below_share(DEFAULT, "victim")
    assert queue.tokens_ahead(DEFAULT, "victim") == 1100 + 100


# --- estimates


def test_tokens_ahead_are_those_of_the_bands_served_before():
    queue = make_queue()
    queue.put_back(waits(1, priority=BATCH, tokens=1, output=1), 0.0)
    offer(queue, waits(2, priority=INTERACTIVE, tokens=10, output=10))
    offer(queue, waits(3, priority=DEFAULT, tokens=100, output=100))
    offer(queue, waits(4, priority=BATCH, tokens=400, output=600))

    assert [queue.tokens_ahead(priority) for priority in Priority] == [22, 222, 1222]


def test_a_tenant_that_filled_the_band_delays_itself_and_not_another_one():
    queue = make_queue(requests=100, tokens=10_000)
    for stream_id in range(50):
        offer(queue, waits(stream_id, "noisy", tokens=100, output=50))

    assert queue.tokens_ahead(DEFAULT, "noisy") == 7500
    assert queue.tokens_ahead(DEFAULT, "victim") == 0
    offer(queue, waits(100, "victim", tokens=100, output=50))
    assert queue.tokens_ahead(DEFAULT, "victim") == pytest.approx(300, abs=1)


def test_the_estimate_for_a_tenant_comes_close_to_what_is_then_served_before_it():
    queue = make_queue(requests=100, tokens=10_000, weights={"heavy": 2.0})
    numbers = count()
    for tenant, streams, tokens in (("heavy", 20, 20), ("plain", 20, 15), ("short", 2, 10)):
        for _ in range(streams):
            offer(queue, waits(next(numbers), tenant, tokens=tokens, output=tokens))
    for tenant in ("heavy", "plain", "short"):
        estimate = queue.tokens_ahead(DEFAULT, tenant)
        offer(queue, waits(999, tenant))
        work = {waiting.stream_id: waiting.work for waiting in queue._bands[DEFAULT]._queued.values()}
        served_before = sum(work[stream_id] for stream_id in list(queue)[: queue.position(999)])
        queue.remove(999)
        assert estimate == pytest.approx(served_before, rel=0.2, abs=2 * 40)


def test_those_in_line_are_ahead_of_whoever_joins_the_line():
    queue = make_queue(requests=1, in_line=3)
    offer(queue, waits(1, "noisy", tokens=10))
    offer(queue, waits(2, "noisy", tokens=20))

    assert queue.tokens_ahead(DEFAULT) == 30
    assert queue.tokens_ahead(DEFAULT, "noisy") == 30
    assert queue.tokens_ahead(DEFAULT, "victim") == 0


def test_position_counts_those_ahead():
    queue = make_queue(requests=1, in_line=1)
    offer(queue, waits(1))
    offer(queue, waits(2))
    queue.put_back(waits(3), 0.0)

    assert [queue.position(stream_id) for stream_id in (3, 1, 2, 99)] == [0, 1, 2, None]
    queue.take(3, 0.0)
    assert [queue.position(stream_id) for stream_id in (3, 1, 2)] == [None, 0, 1]


def test_position_in_a_long_queue_is_never_far_off():
    queue = make_queue(requests=1000)
    for stream_id in range(640):
        offer(queue, waits(stream_id))
    assert queue.position(600) == 600
    for taken in range(1, 200):
        queue.take(taken - 1, 0.0)
        position = queue.position(600)
        assert position is not None
        assert abs(position - (600 - taken)) <= 640 // 16
