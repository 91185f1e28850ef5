from __future__ import annotations

from itertools import count

import pytest
from pydantic import ValidationError

from serve_app.resilience.admission_queue import AdmissionConfig, AdmissionQueue
from serve_app.resilience.fair_band import BandLimits, Offered
from tests.unit.resilience.small_queue import BATCH, DEFAULT, INTERACTIVE, drain, make_queue, offer, waits

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
