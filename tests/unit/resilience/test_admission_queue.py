from __future__ import annotations

from itertools import count

import pytest
from pydantic import ValidationError

from serve_app.core.request import ANONYMOUS_TENANT, Priority
from serve_app.resilience.admission_queue import AdmissionConfig, AdmissionQueue, Bands, OfferResult, WhenFull
from serve_app.resilience.fair_band import BandLimits, Offered
from serve_app.resilience.waiting import Waiting

INTERACTIVE, DEFAULT, BATCH = Priority


def make_queue(
    requests: int = 10,
    tokens: int = 1000,
    in_line: int = 0,
    weights: dict[str, float] | None = None,
    promotion_s: float = 20.0,
    share: float = 0.1,
) -> AdmissionQueue:
    limits = BandLimits(requests=requests, tokens=tokens)
    return AdmissionQueue(
        AdmissionConfig(
            bands=Bands(interactive=limits, default=limits, batch=limits),
            tenant_weights=weights or {},
            starvation_promotion_s=promotion_s,
            starvation_share=share,
            when_full=WhenFull.WAIT if in_line else WhenFull.REFUSE,
            in_line_limit=in_line or 1,
        )
    )


def waits(
    stream_id: int,
    tenant: str = ANONYMOUS_TENANT,
    priority: Priority = DEFAULT,
    tokens: int = 1,
    output: int = 0,
    at: float = 0.0,
) -> Waiting:
    return Waiting(stream_id, tenant, priority, tokens, output, at)


def offer(queue: AdmissionQueue, waiting: Waiting) -> Offered:
    result = queue.offer(waiting, waiting.offered_at)
    assert result.displaced == ()
    return result.offered


def drain(queue: AdmissionQueue, now: float = 0.0) -> list[int]:
    served = []
    while (head := queue.head(now)) is not None:
        served.append(queue.take(head, now).stream_id)
    return served


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


# --- order


def test_streams_of_one_tenant_are_served_first_in_first_out():
    queue = make_queue()
    for stream_id in (7, 3, 5):
        assert offer(queue, waits(stream_id)) is Offered.QUEUED

    assert list(queue) == [7, 3, 5]
    assert drain(queue) == [7, 3, 5]


def test_a_more_urgent_band_is_served_first():
    queue = make_queue()
    for stream_id, priority in ((1, BATCH), (2, DEFAULT), (3, INTERACTIVE), (4, DEFAULT)):
        offer(queue, waits(stream_id, priority=priority))

    assert list(queue) == [3, 2, 4, 1]
    assert drain(queue) == [3, 2, 4, 1]


def test_tenants_take_turns_by_tokens_not_by_requests():
    queue = make_queue()
    for stream_id in (1, 2, 3, 4):
        offer(queue, waits(stream_id, "chatty", tokens=10))
    offer(queue, waits(5, "long", tokens=30))
    offer(queue, waits(6, "long", tokens=30))

    assert drain(queue) == [1, 5, 2, 3, 6, 4]


def test_an_output_token_counts_twice():
    assert waits(1, tokens=100, output=50).cost == 200
    assert waits(1, tokens=100, output=50).work == 150


def test_the_order_told_is_the_order_of_service():
    queue = make_queue(weights={"b": 2.0})
    numbers = count()
    for tenant, tokens in (("a", 10), ("b", 25), ("a", 5), ("c", 7), ("b", 1), ("a", 30), ("c", 7)):
        offer(queue, waits(next(numbers), tenant, tokens=tokens))
    told = list(queue)
    positions = {stream_id: queue.position(stream_id) for stream_id in told}

    assert drain(queue) == told
    assert [positions[stream_id] for stream_id in told] == list(range(7))


def test_a_stream_that_was_not_next_can_be_taken_too():
    queue = make_queue()
    for stream_id in (1, 2, 3):
        offer(queue, waits(stream_id))

    assert queue.take(2, 0.0).stream_id == 2
    assert drain(queue) == [1, 3]


def test_taking_what_does_not_wait_raises():
    queue = make_queue()
    with pytest.raises(KeyError):
        queue.take(1, 0.0)


def test_a_stream_waits_only_once():
    queue = make_queue()
    offer(queue, waits(1))

    with pytest.raises(ValueError, match="waits already"):
        queue.offer(waits(1), 0.0)
    with pytest.raises(ValueError, match="waits already"):
        queue.put_back(waits(1), 0.0)


def test_a_correction_moves_the_turn_in_its_own_band_only():
    queue = make_queue(requests=20)
    for stream_id, tenant in ((1, "a"), (2, "b"), (3, "a"), (4, "b")):
        offer(queue, waits(stream_id, tenant, tokens=10))
        offer(queue, waits(stream_id + 10, tenant, BATCH, tokens=10))
    queue.take(1, 0.0)
    queue.correct("a", 25, DEFAULT)

    assert drain(queue) == [2, 4, 3, 11, 12, 13, 14]


def test_a_stream_that_never_waited_is_charged_too():
    queue = make_queue()
    queue.pass_through(waits(9, "a", tokens=50))
    offer(queue, waits(1, "b", tokens=50))
    queue.pass_through(waits(8, "a", tokens=60))
    offer(queue, waits(2, "a", tokens=50))
    offer(queue, waits(3, "b", tokens=50))

    assert drain(queue) == [1, 3, 2]


def test_a_stream_that_gave_up_is_not_charged():
    queue = make_queue()
    for stream_id, tenant in ((1, "a"), (2, "b"), (3, "a"), (4, "b")):
        offer(queue, waits(stream_id, tenant, tokens=10))
    queue.remove(1)

    assert drain(queue) == [3, 2, 4]


# --- put back


def test_what_was_put_back_goes_first_whatever_its_band_and_in_its_own_order():
    queue = make_queue(requests=1)
    offer(queue, waits(1, priority=INTERACTIVE))
    queue.put_back(waits(8, priority=BATCH), 1.0)
    queue.put_back(waits(9), 2.0)

    assert list(queue) == [8, 9, 1]
    assert drain(queue) == [8, 9, 1]


def test_what_was_put_back_holds_a_place_beyond_the_bounds():
    queue = make_queue(requests=2, tokens=100)
    offer(queue, waits(1, tokens=90))
    queue.put_back(waits(9, tokens=50), 0.0)

    assert queue.tokens == 140
    assert queue.places(DEFAULT) == (2, 0, 100, 0)
    assert offer(queue, waits(2)) is Offered.REFUSED
    queue.take(9, 0.0)
    assert offer(queue, waits(2)) is Offered.QUEUED


def test_what_was_put_back_is_not_charged_twice():
    queue = make_queue()
    for stream_id, tenant in ((1, "a"), (2, "b"), (3, "a"), (4, "b")):
        offer(queue, waits(stream_id, tenant, tokens=10))
    queue.put_back(queue.take(1, 0.0), 0.0)
    assert drain(queue) == [1, 2, 3, 4]


def test_what_was_put_back_can_give_up():
    queue = make_queue()
    queue.put_back(waits(9), 0.0)

    assert queue.remove(9)
    assert not queue.remove(9)
    assert queue.head(0.0) is None
    assert queue.by_band()[DEFAULT] == (0, 0)


def test_the_line_moves_up_when_what_was_put_back_leaves():
    queue = make_queue(requests=1, in_line=1)
    queue.put_back(waits(9), 0.0)
    offer(queue, waits(1))
    assert queue.waits_in_line(1)
    queue.take(9, 0.0)

    assert queue.head(0.0) == 1


def test_a_tenant_with_idle_credit_goes_before_a_steady_one():
    queue = AdmissionQueue(AdmissionConfig(idle_credit_tokens=25))
    for stream_id, tenant in ((0, "idler"), (1, "steady"), (2, "steady"), (3, "steady"), (4, "steady"), (5, "steady")):
        offer(queue, waits(stream_id, tenant, tokens=10))
    queue.take(0, 0.0)
    for stream_id in (1, 2, 3, 4):
        queue.take(stream_id, 0.0)
    for stream_id in (6, 7, 8, 9):
        offer(queue, waits(stream_id, "idler", tokens=10))

    assert drain(queue) == [6, 7, 8, 5, 9]
    assert queue.tokens_ahead(DEFAULT, "idler") == 0


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


# --- promotion


def test_a_band_that_waited_long_enough_is_served_as_if_one_band_more_urgent():
    queue = make_queue(promotion_s=20)
    offer(queue, waits(1, priority=BATCH, at=0.0))
    offer(queue, waits(2, priority=DEFAULT, at=19.5))
    assert queue.head(19.9) == 2
    assert queue.head(20.0) == 1

    offer(queue, waits(3, priority=INTERACTIVE, at=20.0))
    assert queue.head(39.4) == 3
    assert queue.head(40.0) == 1


def test_of_two_bands_that_starve_the_one_that_waits_longer_goes_first():
    queue = make_queue(promotion_s=20)
    offer(queue, waits(1, priority=BATCH, at=0.0))
    offer(queue, waits(2, priority=DEFAULT, at=1.0))
    offer(queue, waits(3, priority=INTERACTIVE, at=30.0))

    assert queue.head(39.0) == 2
    assert queue.head(40.0) == 1


def test_a_starving_band_takes_at_most_its_share_from_more_urgent_streams():
    queue = make_queue(requests=100, promotion_s=20, share=0.25)
    for stream_id in range(100):
        offer(queue, waits(stream_id, priority=BATCH, tokens=10))
    for stream_id in range(1000, 1090):
        offer(queue, waits(stream_id, priority=DEFAULT, tokens=10))
    served = []
    for _ in range(80):
        served.append(queue.take(queue.head(30.0) or 0, 30.0))

    starved = [waiting.stream_id for waiting in served if waiting.priority is BATCH]
    assert len(starved) == 20
    assert starved == list(range(20))


def test_with_a_share_of_one_whoever_waited_long_enough_always_goes_first():
    queue = make_queue(promotion_s=20, share=1.0)
    offer(queue, waits(1, priority=BATCH))
    offer(queue, waits(2, priority=BATCH))
    offer(queue, waits(3, priority=DEFAULT))

    assert drain(queue, now=20.0) == [1, 2, 3]


def test_promotion_does_not_change_the_turns_of_tenants_in_the_band():
    queue = make_queue(promotion_s=20)
    for stream_id in (1, 2, 3):
        offer(queue, waits(stream_id, "noisy", DEFAULT, tokens=10))
    queue.take(1, 0.0)
    offer(queue, waits(4, "victim", DEFAULT, tokens=10, at=25.0))
    offer(queue, waits(5, "noisy", INTERACTIVE, tokens=10, at=25.0))

    assert queue.head(25.0) == 2  # the victim was lifted to the same counter, and noisy waits longer for its turn
    queue.take(2, 25.0)
    queue.take(5, 25.0)
    assert drain(queue, 25.0) == [4, 3]


def test_debt_of_a_starving_band_never_keeps_it_waiting_when_nobody_more_urgent_does():
    queue = make_queue(promotion_s=20)
    for stream_id in (1, 2, 3):
        offer(queue, waits(stream_id, priority=BATCH, tokens=100))
    offer(queue, waits(4, priority=DEFAULT))

    assert drain(queue, now=20.0) == [1, 4, 2, 3]


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


# --- configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"bands": {"urgent": {}}},
        {"tenant_weights": {"a": 0}},
        {"starvation_share": 0},
        {"starvation_promotion_s": 0},
        {"queue_limit": 1},
    ],
)
def test_unknown_keys_and_senseless_values_are_refused(wrong):
    with pytest.raises(ValidationError):
        AdmissionConfig.model_validate(wrong)


def test_one_bound_of_one_band_can_be_set_alone():
    config = AdmissionConfig.model_validate({"bands": {"batch": {"requests": 7}}})

    assert config.bands.of(BATCH) == BandLimits(requests=7)
    assert config.bands.of(DEFAULT) == BandLimits()
