"""Requests for several choices take as many places as they have choices."""

from __future__ import annotations

from serve_app.router.decisions.messages import Ended
from tests.unit.router.decisions.driven_core import DrivenCore


def test_each_choice_takes_a_place_until_the_end() -> None:
    core = DrivenCore("a", capacity=8)
    core.begin(1, choices=6)
    assert core.view("a").in_flight == 6
    core.offer(2)
    core.offer(3)
    core.offer(4)
    assert core.running.keys() == {1, 2, 3}

    core.end(1)

    assert core.running.keys() == {2, 3, 4}
    assert core.view("a").in_flight == 3
    assert core.model.policies.snapshot(core.now)[0].in_flight == 3


def test_a_request_waits_until_there_is_room_for_its_choices() -> None:
    core = DrivenCore("a", capacity=8)
    for stream_id in (1, 2, 3, 4, 5, 6):
        core.begin(stream_id)
    core.offer(7, choices=4)
    core.offer(8)
    assert 7 not in core.running and 8 not in core.running, "those behind it would take its places for ever"

    core.end(1)
    assert 7 not in core.running
    core.end(2)

    assert 7 in core.running
    assert core.view("a").in_flight == 8


def test_a_request_larger_than_any_share_is_served_with_half_of_it() -> None:
    core = DrivenCore("a", capacity=8)
    for stream_id in (1, 2, 3, 4, 5):
        core.begin(stream_id)
    core.offer(9, choices=16)
    assert 9 not in core.running

    core.end(1)

    assert 9 in core.running
    core.offer(10)
    assert 10 not in core.running
    core.end(9)
    assert 10 in core.running


def test_all_choices_are_expected_to_be_generated_and_paid_for() -> None:
    core = DrivenCore("a", capacity=8)
    core.begin(1, choices=4, max_tokens=16, received=0)
    core.begin(2, max_tokens=16, received=0)
    one, two = core.model.streams[1], core.model.streams[2]
    assert one.output_ahead == 4 * two.output_ahead == 64
    assert one.charged is not None and two.charged is not None
    assert one.charged > 3 * two.charged


def test_the_expected_length_is_that_of_one_choice() -> None:
    core = DrivenCore("a", capacity=64, expected_output_tokens=100)
    for stream_id in range(200):
        core.begin(stream_id, choices=4, max_tokens=None, received=200)
        core.running.pop(stream_id)
        core.tell(Ended(stream_id, True))
    core.begin(1000, max_tokens=None, received=0)
    assert 45 <= core.model.streams[1000].output_ahead <= 55
