"""Who gets a place in a band of bounded size, who loses it, and who stands in line."""

from __future__ import annotations

import pytest

from serve_app.resilience.admission_queue import OfferResult
from serve_app.resilience.fair_band import Offered
from tests.unit.resilience.small_queue import BATCH, DEFAULT, INTERACTIVE, make_queue, offer, waits

# --- bounds


def test_an_offer_beyond_the_request_bound_is_refused():
    queue = make_queue(requests=2)
    offer(queue, waits(1))
    offer(queue, waits(2))

    assert offer(queue, waits(3)) is Offered.REFUSED
    assert len(queue) == 2
    assert 3 not in queue


def test_an_offer_beyond_the_token_bound_is_refused():
    queue = make_queue(tokens=100)
    offer(queue, waits(1, tokens=60))

    assert offer(queue, waits(2, tokens=41)) is Offered.REFUSED
    assert offer(queue, waits(3, tokens=40)) is Offered.QUEUED
    assert queue.tokens == 100


def test_a_prompt_above_the_token_bound_is_let_in_alone():
    queue = make_queue(tokens=100)

    assert offer(queue, waits(1, tokens=500)) is Offered.QUEUED
    assert offer(queue, waits(2)) is Offered.REFUSED


def test_a_band_of_zero_refuses_everything():
    queue = make_queue(requests=0)

    assert offer(queue, waits(1)) is Offered.REFUSED
    assert not queue.can_take()


def test_a_full_band_leaves_the_others_their_places():
    queue = make_queue(requests=1)
    offer(queue, waits(1, priority=BATCH))

    assert offer(queue, waits(2, priority=BATCH)) is Offered.REFUSED
    assert offer(queue, waits(3, priority=DEFAULT)) is Offered.QUEUED
    assert queue.by_band() == {INTERACTIVE: (0, 0), DEFAULT: (1, 1), BATCH: (1, 1)}
    assert not queue.can_take(BATCH)
    assert queue.can_take(INTERACTIVE, 1000)


def test_places_tell_bounds_and_what_is_left():
    queue = make_queue(requests=5, tokens=100)
    offer(queue, waits(1, tokens=30))

    assert queue.places(DEFAULT) == (5, 4, 100, 70)
    assert queue.places(BATCH) == (5, 5, 100, 100)


# --- places among tenants


def test_a_tenant_below_its_share_takes_the_newest_place_of_the_one_that_filled_the_band():
    queue = make_queue(requests=4)
    for stream_id in (1, 2, 3, 4):
        offer(queue, waits(stream_id, "noisy"))

    assert queue.offer(waits(5, "victim"), 0.0) == OfferResult(Offered.QUEUED, (4,))
    assert 4 not in queue
    assert queue.offer(waits(6, "victim"), 0.0) == OfferResult(Offered.QUEUED, (3,))
    assert offer(queue, waits(7, "victim")) is Offered.REFUSED  # it has its half now
    assert offer(queue, waits(8, "noisy")) is Offered.REFUSED


def test_the_tenant_furthest_above_its_share_gives_way():
    queue = make_queue(requests=8)
    for stream_id in range(3):
        offer(queue, waits(stream_id, "a"))
    for stream_id in range(3, 8):
        offer(queue, waits(stream_id, "b"))

    assert queue.offer(waits(10, "c"), 0.0).displaced == (7,)
    assert queue.offer(waits(11, "c"), 0.0).displaced == (6,)
    assert queue.offer(waits(12, "c"), 0.0).displaced == ()


def test_shares_follow_the_weights():
    queue = make_queue(requests=4, weights={"paying": 3.0})
    for stream_id in range(4):
        offer(queue, waits(stream_id, "free"))
    for stream_id in range(10, 13):
        assert queue.offer(waits(stream_id, "paying"), 0.0).offered is Offered.QUEUED

    assert list(queue).count(0) == 1
    assert offer(queue, waits(14, "paying")) is Offered.REFUSED


def test_tokens_are_shared_like_requests():
    queue = make_queue(tokens=100)
    for stream_id in (1, 2, 3, 4):
        offer(queue, waits(stream_id, "noisy", tokens=25))

    assert queue.offer(waits(5, "victim", tokens=40), 0.0) == OfferResult(Offered.QUEUED, (4, 3))
    assert queue.tokens == 90


def test_nobody_loses_a_place_when_that_would_not_make_room():
    queue = make_queue(tokens=100)
    offer(queue, waits(1, "a", tokens=50))
    offer(queue, waits(2, "b", tokens=50))

    assert offer(queue, waits(3, "c", tokens=40)) is Offered.REFUSED
    assert list(queue) == [1, 2]


def test_the_only_stream_of_a_tenant_keeps_its_place():
    queue = make_queue(tokens=100)
    offer(queue, waits(1, "long", tokens=50))
    for stream_id in (2, 3, 4, 5, 6):
        offer(queue, waits(stream_id, "noisy", tokens=10))

    assert queue.offer(waits(7, "victim", tokens=10), 0.0).displaced == (6,)


def test_a_single_prompt_that_fills_the_band_alone_does_not_keep_others_out():
    queue = make_queue(tokens=100)
    offer(queue, waits(1, "noisy", tokens=99))

    assert queue.offer(waits(2, "victim", tokens=10), 0.0) == OfferResult(Offered.QUEUED, (1,))


def test_work_that_was_put_back_never_loses_its_place():
    queue = make_queue(requests=2)
    queue.put_back(waits(1, "noisy"), 0.0)
    queue.put_back(waits(2, "noisy"), 0.0)

    assert offer(queue, waits(3, "victim")) is Offered.REFUSED
    assert list(queue) == [1, 2]


def test_with_everyone_at_one_request_a_newcomer_is_refused():
    queue = make_queue(requests=3)
    for stream_id in range(3):
        offer(queue, waits(stream_id, f"t{stream_id}"))

    assert offer(queue, waits(9, "late")) is Offered.REFUSED


# --- line


def test_offers_to_a_full_band_stand_in_line_and_move_up_in_order():
    queue = make_queue(requests=1, in_line=2)
    offer(queue, waits(1))

    assert offer(queue, waits(2)) is Offered.IN_LINE
    assert offer(queue, waits(3)) is Offered.IN_LINE
    assert offer(queue, waits(4)) is Offered.REFUSED  # the line is bounded too
    assert list(queue) == [1, 2, 3]
    queue.remove(1)

    assert queue.head(0.0) == 2
    assert not queue.waits_in_line(2)
    assert queue.waits_in_line(3)
    assert (len(queue), queue.in_line) == (1, 1)


def test_taking_lets_the_line_move_up():
    queue = make_queue(requests=1, in_line=2)
    offer(queue, waits(1))
    offer(queue, waits(2))
    queue.take(1, 0.0)

    assert queue.head(0.0) == 2


def test_whoever_stands_in_line_cannot_be_taken_and_can_give_up():
    queue = make_queue(requests=1, in_line=2)
    offer(queue, waits(1))
    offer(queue, waits(2))

    with pytest.raises(KeyError):
        queue.take(2, 0.0)
    assert queue.remove(2)
    assert list(queue) == [1]


def test_nobody_of_the_same_tenant_overtakes_the_line():
    queue = make_queue(requests=5, tokens=10, in_line=2)
    offer(queue, waits(1, tokens=6))
    offer(queue, waits(2, tokens=6))

    assert offer(queue, waits(3)) is Offered.IN_LINE


def test_a_small_offer_of_another_tenant_passes_a_line_that_waits_for_more_room():
    queue = make_queue(requests=5, tokens=10, in_line=2)
    offer(queue, waits(1, "noisy", tokens=6))
    offer(queue, waits(2, "noisy", tokens=6))

    assert offer(queue, waits(3, "victim")) is Offered.QUEUED
    assert offer(queue, waits(4, "noisy")) is Offered.IN_LINE


def test_each_band_has_its_own_line():
    queue = make_queue(requests=1, in_line=1)
    for stream_id, priority in ((1, BATCH), (2, BATCH), (3, DEFAULT)):
        offer(queue, waits(stream_id, priority=priority))

    assert not queue.can_take(BATCH)
    assert offer(queue, waits(4, priority=DEFAULT)) is Offered.IN_LINE
    assert list(queue) == [3, 1, 4, 2]


def test_a_tenant_below_its_share_does_not_stand_in_another_ones_line():
    queue = make_queue(requests=2, in_line=3)
    for stream_id in (1, 2, 3):
        offer(queue, waits(stream_id, "noisy"))

    assert queue.offer(waits(4, "victim"), 0.0) == OfferResult(Offered.QUEUED, ())
    assert list(queue) == [1, 4, 2, 3]  # 2 lost its place and stands first in line
    assert queue.waits_in_line(2)


def test_with_a_full_line_the_newest_of_the_tenant_above_its_share_leaves():
    queue = make_queue(requests=2, in_line=1)
    for stream_id in (1, 2, 3):
        offer(queue, waits(stream_id, "noisy"))

    assert queue.offer(waits(4, "victim"), 0.0) == OfferResult(Offered.QUEUED, (3,))
    assert list(queue) == [1, 4, 2]


def test_whoever_loses_its_place_leaves_when_others_fill_the_line():
    queue = make_queue(requests=4, tokens=100, in_line=1)
    for stream_id, tenant, tokens in ((1, "noisy", 10), (2, "noisy", 10), (3, "other", 50), (4, "other", 60)):
        offer(queue, waits(stream_id, tenant, tokens=tokens))
    queue.put_back(waits(9, "noisy", tokens=30), 0.0)
    assert queue.waits_in_line(4)

    assert queue.offer(waits(5, "victim", tokens=10), 0.0) == OfferResult(Offered.QUEUED, (2,))


def test_a_free_place_goes_to_the_tenant_in_line_that_holds_the_least():
    queue = make_queue(requests=4, in_line=9)
    for stream_id, tenant in ((1, "noisy"), (2, "noisy"), (3, "victim"), (4, "victim"), (5, "noisy"), (6, "victim")):
        offer(queue, waits(stream_id, tenant, at=float(stream_id)))
    queue.take(3, 6.0)

    assert queue.waits_in_line(5)
    assert not queue.waits_in_line(6)


def test_the_line_moves_up_into_room_that_a_lost_place_leaves():
    queue = make_queue(tokens=100, in_line=1)
    for stream_id, tenant, tokens in ((1, "noisy", 40), (2, "noisy", 40), (3, "other", 20), (4, "other", 31)):
        offer(queue, waits(stream_id, tenant, tokens=tokens))
    assert queue.waits_in_line(4)

    assert queue.offer(waits(5, "victim", tokens=5), 0.0).displaced == (2,)
    assert queue.in_line == 0
    assert queue.tokens == 96
