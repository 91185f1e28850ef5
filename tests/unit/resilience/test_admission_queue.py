from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.resilience.admission_queue import AdmissionQueue, Offered, QueueLimits, WhenFull


def make_queue(requests: int = 2, tokens: int = 100, in_line: int = 2, when_full: WhenFull = WhenFull.REFUSE):
    return AdmissionQueue(QueueLimits(requests, tokens, in_line, when_full))


def test_offers_are_served_first_in_first_out():
    queue = make_queue(requests=3)
    for stream_id in (7, 3, 5):
        assert queue.offer(stream_id, 1) is Offered.QUEUED

    assert list(queue) == [7, 3, 5]
    assert queue.head() == 7


def test_offer_beyond_the_request_bound_is_refused():
    queue = make_queue(requests=2)
    queue.offer(1, 1)
    queue.offer(2, 1)

    assert queue.offer(3, 1) is Offered.REFUSED
    assert len(queue) == 2


def test_offer_beyond_the_token_bound_is_refused():
    queue = make_queue(requests=10, tokens=100)
    queue.offer(1, 60)

    assert queue.offer(2, 41) is Offered.REFUSED
    assert queue.offer(3, 40) is Offered.QUEUED
    assert queue.tokens == 100


def test_a_prompt_above_the_token_bound_is_let_in_alone():
    queue = make_queue(requests=10, tokens=100)

    assert queue.offer(1, 500) is Offered.QUEUED
    assert queue.offer(2, 1) is Offered.REFUSED


def test_queue_of_zero_refuses_everything():
    assert make_queue(requests=0).offer(1, 1) is Offered.REFUSED


def test_waiting_offers_stand_in_line_and_move_up_in_order():
    queue = make_queue(requests=1, when_full=WhenFull.WAIT)
    queue.offer(1, 1)

    assert queue.offer(2, 1) is Offered.IN_LINE
    assert queue.offer(3, 1) is Offered.IN_LINE
    assert queue.offer(4, 1) is Offered.REFUSED  # the line is bounded too
    queue.remove(1)

    assert queue.head() == 2
    assert queue.waits_in_line(3)
    assert not queue.waits_in_line(2)


def test_nobody_overtakes_those_who_stand_in_line():
    queue = make_queue(requests=5, tokens=10, when_full=WhenFull.WAIT)
    queue.offer(1, 6)
    queue.offer(2, 6)

    assert queue.offer(3, 1) is Offered.IN_LINE


def test_put_back_goes_to_the_head_even_when_full():
    queue = make_queue(requests=1)
    queue.offer(1, 1)
    queue.put_back(9, 5)

    assert list(queue) == [9, 1]
    assert queue.tokens == 6


def test_position_counts_those_ahead():
    queue = make_queue(requests=1, when_full=WhenFull.WAIT)
    queue.offer(1, 1)
    queue.offer(2, 1)

    assert queue.position(1) == 0
    assert queue.position(2) == 1
    assert queue.position(99) is None


def test_can_take_is_false_only_when_the_line_is_full_too():
    queue = make_queue(requests=1, in_line=1, when_full=WhenFull.WAIT)
    queue.offer(1, 1)
    assert queue.can_take()
    queue.offer(2, 1)
    assert not queue.can_take()


@given(
    st.lists(st.tuples(st.sampled_from(["offer", "remove", "put_back"]), st.integers(0, 12), st.integers(1, 40))),
    st.sampled_from(list(WhenFull)),
)
def test_token_count_is_exact_and_offers_keep_the_bounds(steps, when_full):
    queue = make_queue(requests=4, tokens=60, in_line=3, when_full=when_full)
    waiting: dict[int, int] = {}
    for kind, stream_id, tokens in steps:
        before, held = len(queue), queue.tokens
        if kind == "offer" and stream_id not in waiting:
            outcome = queue.offer(stream_id, tokens)
            if outcome is not Offered.REFUSED:
                waiting[stream_id] = tokens
            if outcome is Offered.QUEUED:
                assert before < 4
                assert held + tokens <= 60 or before == 0
        elif kind == "put_back" and stream_id not in waiting:
            queue.put_back(stream_id, tokens)
            waiting[stream_id] = tokens
        elif kind == "remove":
            assert queue.remove(stream_id) == (waiting.pop(stream_id, None) is not None)
        assert sorted(queue) == sorted(waiting)
        assert queue.tokens == sum(t for s, t in waiting.items() if not queue.waits_in_line(s))
        assert queue.in_line <= 3
        if queue.in_line:
            assert len(queue) > 0
