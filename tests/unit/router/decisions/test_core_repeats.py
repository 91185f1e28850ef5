"""What repeats of failed attempts may cost, and how they wait for it and for a place."""

from __future__ import annotations

import pytest

from serve_app.core.errors import EngineLost, QueueFull
from serve_app.telemetry.reasons import RefusalReason
from tests.unit.router.decisions.driven_core import DrivenCore
from tests.unit.router.decisions.failing_replicas import NO_DELAY

# --- the retry budget


def failing_pool(**retry: object) -> DrivenCore:
    """Two streams that fail at once where only one repeat is allowed; the second one waits for the budget."""
    core = DrivenCore("a", capacity=8, retry={**NO_DELAY, "budget": {"share": 0.0, "min_retries": 1}, **retry})
    for stream_id in (1, 2):
        core.begin(stream_id, received=0)
        core.fail_attempt(stream_id)
    return core


def test_retries_beyond_the_budget_wait_for_it():
    core = failing_pool()

    assert core.running.keys() == {1}
    assert core.model.waiting.count == 1
    core.tick(0.1)
    assert core.running.keys() == {1}


@pytest.mark.parametrize("completed", [True, False])
def test_end_of_a_repeat_gives_its_budget_to_the_next(completed):
    core = failing_pool()

    core.end(1, completed)

    assert core.running.keys() == {2}
    core.end(2)
    assert core.model.budget.repeated == 0
    assert core.model.waiting.count == 0


def test_stream_cancelled_while_it_waits_for_budget_leaves_nothing_behind():
    core = failing_pool()

    core.end(2, completed=False)
    core.end(1)

    assert core.running == {}
    assert core.model.waiting.count == 0
    assert core.model.budget.repeated == 0


def test_stream_cancelled_during_its_pause_is_not_dispatched():
    core = DrivenCore("a", retry={"base_delay_s": 5.0})
    core.begin(1, received=0)
    core.fail_attempt(1)
    core.end(1, completed=False)

    core.tick(core.ticks_asked[0])

    assert core.running == {}


def test_repeat_cancelled_in_the_queue_gives_its_budget_back():
    core = DrivenCore("a", "b", capacity=1)
    core.begin(1, received=2)
    core.begin(2, received=2)
    core.lose("a")
    [waiting] = {1, 2} - core.running.keys()
    assert core.model.budget.repeated == 12

    core.end(waiting, completed=False)

    assert core.model.budget.repeated == 0


def test_first_to_fail_is_the_first_to_get_the_budget():
    core = DrivenCore("a", capacity=8, retry={**NO_DELAY, "budget": {"share": 0.5, "min_retries": 0}})
    core.begin(9, received=0, tokens=100, max_tokens=100)
    for stream_id, limit in ((1, 16), (2, 200), (3, 16)):
        core.begin(stream_id, received=0, max_tokens=limit)
    for stream_id in (1, 2, 3):
        core.fail_attempt(stream_id)
    assert core.running.keys() == {9, 1}  # 2 is too large now, and 3, which is not, came after it

    core.begin(8, received=0, tokens=1000, max_tokens=100)
    core.tick(0.1)

    assert core.running.keys() == {9, 1, 8, 2, 3}


def test_refused_repeat_keeps_its_part_of_the_budget():
    core = failing_pool()
    taken = core.model.budget.repeated

    core.refuse(1)

    assert core.running == {}
    assert core.model.budget.repeated == taken
    core.report("a")
    assert core.running.keys() == {1}


def test_repeat_whose_replica_is_lost_before_it_answers_keeps_its_part_of_the_budget():
    core = failing_pool()
    taken = core.model.budget.repeated

    core.lose("a")
    core.report("a")

    assert core.model.budget.repeated == taken
    assert core.running.keys() == {1}


def test_replay_gives_its_budget_back_when_what_it_repeats_is_computed():
    core = DrivenCore("a", "b", capacity=8, retry={"budget": {"share": 0.0, "min_retries": 1}})
    core.list_replicas("a")
    core.begin(1, received=5)
    core.begin(2, received=5)
    core.list_replicas("a", "b")
    core.report("b")
    core.lose("a")
    assert [d.stream_id for d in core.replays] == [1]

    core.accept(1)
    core.tokens(1)
    core.tick(0.1)

    assert [d.stream_id for d in core.replays] == [1, 2]


def test_retry_keeps_its_budget_until_it_ends():
    core = failing_pool()

    core.accept(1)
    core.tokens(1)
    core.tick(0.1)

    assert core.running.keys() == {1}


def test_work_in_flight_is_no_longer_counted_for_the_budget_when_it_ended():
    core = DrivenCore("a", retry={**NO_DELAY, "budget": {"share": 0.2, "min_retries": 0}})
    core.begin(1, received=0)
    core.end(1)
    core.begin(2, received=0)

    core.fail_attempt(2)

    assert core.running == {}
    assert core.model.budget.left == 0.0


# --- waiting again


def test_repeats_are_served_before_new_work():
    core = DrivenCore("a", capacity=1)
    core.begin(1, received=2)
    core.offer(2)
    core.lose("a")
    core.offer(3)

    core.report("a")

    assert core.running.keys() == {1}
    assert list(core.model.queue) == [2, 3]


def test_refused_dispatch_may_wait_in_the_queue_longer_than_a_replica_may_take_to_answer():
    core = DrivenCore("a", capacity=1, dispatch_timeout_s=5.0, accept_timeout_s=1.0)
    core.offer(1)
    core.refuse(1)
    core.tick(6.0)

    core.report("a")
    core.tick(6.1)

    assert core.failed == {}
    assert core.engine_of(1) == "a"


def test_stream_whose_replica_died_before_it_answered_may_wait_for_the_next_one():
    core = DrivenCore("a", dispatch_timeout_s=5.0)
    core.offer(1)
    core.lose("a")
    core.tick(20.0)

    core.report("a")
    core.tick(20.1)

    assert core.failed == {}
    assert core.engine_of(1) == "a"


def test_failed_dispatch_may_wait_for_its_retry_longer_than_a_replica_may_take_to_answer():
    core = DrivenCore("a", dispatch_timeout_s=5.0, retry={"base_delay_s": 1000.0, "max_delay_s": 10.0})
    core.offer(1)
    core.fail_attempt(1)

    core.tick(core.ticks_asked[0] + 5.0)
    core.tick(core.now + 0.1)

    assert core.failed == {}
    assert core.engine_of(1) == "a"


def test_stream_that_is_refused_over_and_over_fails_after_the_queue_timeout():
    core = DrivenCore("a", admission={"queue_timeout_s": 10.0})
    core.offer(1)
    for second in range(10):
        core.now = float(second)
        core.refuse(1)
        if second < 9:
            core.report("a")
    assert core.failed == {}

    core.tick(10.0)

    assert core.errors() == {1: QueueFull}
    assert core.failed[1].refusal is RefusalReason.WAITED


def test_stream_that_waits_in_vain_for_another_replica_is_told_what_happened_to_its_first():
    core = DrivenCore("a", "b", capacity=1, admission={"queue_timeout_s": 10.0})
    core.begin(1, received=2)
    core.begin(2, received=2)
    engine = core.running[1].engine_id
    core.lose(engine)

    core.tick(9.9)
    assert core.failed == {}
    core.tick(10.0)

    assert core.errors() == {1: EngineLost}
