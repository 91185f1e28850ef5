"""Who is refused, why, with what kind, and when to come back."""

from __future__ import annotations

import random

import pytest

from serve_app.core.errors import DeadlineExceeded, DeadlineUnattainable, NoEngineAvailable, QueueFull, Refused
from serve_app.core.request import Priority
from serve_app.router.decisions.messages import Wake
from serve_app.telemetry.reasons import RefusalReason
from tests.unit.router.decisions.driven_core import MODEL, DrivenCore

SMALL = {"bands": {band: {"requests": 2} for band in ("interactive", "default", "batch")}}


def refused(core: DrivenCore, stream_id: int) -> tuple[type, RefusalReason | None]:
    fail = core.failed[stream_id]
    return type(fail.error), fail.refusal


def backlog(core: DrivenCore, rate: float = 100.0, seconds: int = 20, waiting_tokens: int = 6000) -> None:
    """One stream runs for a while at `rate` tokens a second, and one of so many tokens waits behind it."""
    core.begin(1, received=0, max_tokens=100_000)
    core.offer(2, tokens=waiting_tokens, max_tokens=1, priority=Priority.BATCH)
    for _ in range(seconds):
        core.now += 1.0
        core.report("a", stepped=True)
        core.tokens(1, int(rate))
        core.tick(core.now)


# --- no place


def test_full_band_refuses_at_once():
    core = DrivenCore("a", capacity=1, admission=SMALL)
    for stream_id in (1, 2, 3):
        core.offer(stream_id)
    assert core.failed == {}

    core.offer(4)

    assert refused(core, 4) == (QueueFull, RefusalReason.QUEUE_FULL)
    assert 4 not in core.model.streams


def test_full_band_refuses_nobody_of_another_band():
    core = DrivenCore("a", capacity=1, admission=SMALL)
    for stream_id in (1, 2, 3):
        core.offer(stream_id)

    core.offer(4, priority=Priority.INTERACTIVE)

    assert core.failed == {}


def test_tenant_below_its_share_takes_the_place_of_one_above_it():
    core = DrivenCore("a", capacity=1, admission=SMALL)
    for stream_id in (1, 2, 3):
        core.offer(stream_id, tenant="many")

    core.offer(4, tenant="few")

    [displaced] = core.failed
    assert displaced in {2, 3}
    assert refused(core, displaced) == (QueueFull, RefusalReason.DISPLACED)
    assert 4 in core.model.queue


@pytest.mark.parametrize("priority", list(Priority))
def test_refusals_say_when_to_come_back(priority):
    core = DrivenCore("a", capacity=1, admission=SMALL)
    for stream_id in range(20):
        core.offer(stream_id, priority=priority)
    hints = [fail.error.retry_after_s for fail in core.failed.values() if isinstance(fail.error, Refused)]
    assert len(hints) == 17
    assert all(1.0 <= hint <= 60.0 for hint in hints)
    assert len(set(hints)) == len(hints), "all would come back at once"


def test_hint_grows_with_the_backlog():
    core = DrivenCore("a", capacity=1, admission={"bands": {"default": {"requests": 1}}})
    backlog(core, rate=100.0, waiting_tokens=10)
    core.offer(3, tokens=2500, max_tokens=1)
    assert 3 in core.model.queue

    core.offer(4)

    error = core.failed[4].error
    assert isinstance(error, Refused)
    assert 15.0 <= error.retry_after_s <= 60.0


# --- too late


def test_offer_whose_deadline_is_over_is_refused_and_never_dispatched():
    core = DrivenCore("a")
    core.now = 5.0

    core.offer(1, deadline=5.0)

    assert refused(core, 1) == (DeadlineUnattainable, RefusalReason.DEADLINE)
    assert core.running == {}


def test_offer_that_would_wait_beyond_its_deadline_is_refused_at_once():
    core = DrivenCore("a", capacity=1, first_token_objectives_s={"default": None})
    backlog(core)
    core.offer(3, tokens=1000, max_tokens=1)  # ten seconds of work

    core.offer(4, deadline=core.now + 3.0)
    core.offer(5, deadline=core.now + 100.0)

    assert refused(core, 4) == (DeadlineUnattainable, RefusalReason.DEADLINE)
    assert core.failed.keys() == {4}


@pytest.mark.parametrize(("objective_s", "is_refused"), [(5.0, True), (100.0, False), (None, False)])
def test_offer_that_would_miss_the_objective_for_first_tokens_is_refused_at_once(objective_s, is_refused):
    core = DrivenCore("a", capacity=1, first_token_objectives_s={"default": objective_s})
    backlog(core)
    core.offer(3, tokens=1000, max_tokens=1, priority=Priority.INTERACTIVE)  # ahead of it; ten seconds of work

    core.offer(4)

    if is_refused:
        assert refused(core, 4) == (DeadlineUnattainable, RefusalReason.OBJECTIVE)
    else:
        assert core.failed == {}


@pytest.mark.parametrize(("waiting_tokens", "is_refused"), [(200, False), (600, True)])
def test_wait_may_take_a_quarter_of_the_objective(waiting_tokens, is_refused):
    core = DrivenCore("a", capacity=1, first_token_objectives_s={"default": 16.0})
    backlog(core, rate=100.0, waiting_tokens=10)
    core.offer(3, tokens=waiting_tokens, max_tokens=1)

    core.offer(4)

    assert (4 in core.failed) is is_refused


def test_wait_of_a_tenant_below_its_share_may_take_the_whole_objective():
    core = DrivenCore("a", capacity=1, first_token_objectives_s={"default": 16.0})
    core.model.queue.tokens_ahead = lambda *asked: 600  # type: ignore[method-assign]  # six seconds of work
    backlog(core, rate=100.0, waiting_tokens=10)
    core.offer(3, tokens=100, max_tokens=1, tenant="many", priority=Priority.DEFAULT)
    assert 3 in core.failed
    core.model.queue.is_below_share = lambda *asked: True  # type: ignore[method-assign]  # as a small tenant

    core.offer(4, tenant="few")

    assert 4 not in core.failed


def test_objective_counts_only_what_is_served_before():
    core = DrivenCore("a", capacity=1, first_token_objectives_s={"interactive": 5.0})
    backlog(core)
    core.offer(3, tokens=1000, max_tokens=1)

    core.offer(4, priority=Priority.INTERACTIVE)

    assert core.failed == {}


def test_without_an_objective_the_longest_time_in_the_queue_is_the_bound():
    core = DrivenCore("a", capacity=1, admission={"queue_timeout_s": 5.0}, first_token_objectives_s={"default": None})
    backlog(core, seconds=4)
    core.offer(3, tokens=1000, max_tokens=1, priority=Priority.INTERACTIVE)

    core.offer(4)

    assert refused(core, 4) == (DeadlineUnattainable, RefusalReason.OBJECTIVE)


def test_offer_that_starts_at_once_misses_no_objective():
    core = DrivenCore("a", capacity=3, first_token_objectives_s={"default": 0.5})
    core.begin(1)

    core.offer(2)

    assert core.engine_of(2) == "a"


# --- waited


def test_stream_that_waited_for_its_time_is_refused():
    core = DrivenCore("a", capacity=1, admission={"queue_timeout_s": 10.0})
    core.begin(1)
    core.now = 1.0
    core.offer(2)

    core.tick(10.9)
    assert core.failed == {}
    core.tick(11.0)

    assert refused(core, 2) == (QueueFull, RefusalReason.WAITED)
    assert core.model.waiting.count == 0


def test_place_in_line_is_kept_for_its_own_time():
    core = DrivenCore("a", capacity=1, admission={**SMALL, "when_full": "wait", "in_line_timeout_s": 5.0})
    for stream_id in (1, 2, 3, 4):
        core.offer(stream_id)
    core.accept(1)
    assert core.model.streams[4].in_line

    core.tick(4.9)
    assert core.failed == {}
    core.tick(5.0)

    assert core.failed.keys() == {4}
    assert refused(core, 4) == (QueueFull, RefusalReason.WAITED)


def test_line_has_a_bound_too():
    core = DrivenCore("a", capacity=1, admission={**SMALL, "when_full": "wait", "in_line_limit": 1})
    for stream_id in (1, 2, 3, 4):
        core.offer(stream_id)
    assert core.failed == {}

    core.offer(5)

    assert refused(core, 5) == (QueueFull, RefusalReason.QUEUE_FULL)


def test_deadline_of_a_waiting_stream_is_no_refusal():
    core = DrivenCore("a", capacity=1)
    core.begin(1)
    core.offer(2, deadline=3.0)

    core.tick(3.0)

    assert refused(core, 2) == (DeadlineExceeded, None)


def test_deadline_of_a_stream_that_waits_for_another_try_is_kept():
    core = DrivenCore("a", retry={"base_delay_s": 50.0, "max_delay_s": 50.0})
    core.begin(1, received=0, deadline=3.0)
    core.fail_attempt(1)

    core.tick(3.0)

    assert core.errors() == {1: DeadlineExceeded}
    assert core.model.waiting.count == 0


def test_stream_whose_deadline_passes_in_the_queue_is_not_dispatched_when_a_place_is_free():
    core = DrivenCore("a", capacity=1)
    core.begin(1)
    core.offer(2, deadline=3.0)
    core.now = 3.0

    core.end(1)

    assert core.running == {}
    assert core.errors() == {2: DeadlineExceeded}


# --- no engine


def test_requests_of_a_sleeping_model_wait_and_then_get_no_engine():
    core = DrivenCore(no_engine_timeout_s=20.0)
    core.offer(1)
    core.tick(0.1)

    core.tick(20.0)
    assert core.failed == {}
    core.tick(20.1)

    assert refused(core, 1) == (NoEngineAvailable, RefusalReason.NO_ENGINE)
    error = core.failed[1].error
    assert isinstance(error, Refused)
    assert 2.0 <= error.retry_after_s <= 5.0


def test_model_that_was_seen_to_load_slowly_is_waited_for_again_after_hours_of_sleep():
    core = DrivenCore(no_engine_timeout_s=60.0)
    core.offer(1)
    core.tick(0.1)
    for now in range(1, 51):
        core.tick(float(now))
    core.list_replicas("a")
    core.report("a")
    core.accept(1)
    core.end(1)
    core.list_replicas()
    core.lose("a")
    for minute in range(1, 200):
        core.tick(60.0 * minute)

    woken = core.wakes
    core.offer(2)
    assert core.wakes == woken + 1
    started = core.now
    while core.now < started + 140.0:
        core.tick(core.now + 1.0)
    assert core.failed == {}, "three times the load that was seen are allowed"

    core.list_replicas("b")
    core.report("b")
    assert core.engine_of(2) == "b"


def test_waiting_for_the_model_is_not_waiting_for_a_place():
    core = DrivenCore(capacity=1, admission={"queue_timeout_s": 10.0})
    core.offer(1)
    core.offer(2)
    for now in range(1, 41):
        core.tick(float(now))
    core.list_replicas("a")
    core.report("a")
    core.accept(1)

    core.tick(49.9)
    assert core.failed == {}
    core.tick(50.1)

    assert refused(core, 2) == (QueueFull, RefusalReason.WAITED)


def test_model_that_sleeps_refuses_nobody_for_how_slow_it_was_before():
    core = DrivenCore("a", capacity=1, first_token_objectives_s={"default": 5.0})
    backlog(core, rate=1.0)
    core.end(1)
    core.end(2, completed=False)
    core.list_replicas()
    core.lose("a")

    for stream_id in range(10, 30):
        core.offer(stream_id, tokens=1000)

    assert core.failed == {}


def test_deadline_of_a_request_for_a_sleeping_model_is_its_only_bound():
    core = DrivenCore()
    core.now = 10.0

    core.offer(1, deadline=9.0)
    core.offer(2, deadline=11.0)

    assert core.failed.keys() == {1}


def test_sleeping_model_is_woken_by_each_offer_and_each_tick_until_it_is_listed():
    core = DrivenCore()
    core.offer(1)
    assert core.tick(0.1) == [Wake(MODEL)]
    core.list_replicas("a")
    assert core.tick(0.2) == []


def test_nobody_wakes_a_model_that_nobody_waits_for():
    core = DrivenCore()
    core.offer(1)
    core.end(1, completed=False)
    assert core.tick(0.1) == []


def test_streams_that_lost_their_replica_wake_the_model_too():
    core = DrivenCore("a")
    core.begin(1)
    core.list_replicas()
    core.lose("a")

    assert Wake(MODEL) in core.tick(0.1)


@pytest.mark.parametrize("seed", range(3))
def test_every_offer_of_an_overload_is_dispatched_queued_or_refused(seed):
    rng = random.Random(seed)
    core = DrivenCore("a", "b", capacity=3, admission=SMALL)
    for stream_id in range(200):
        core.now += rng.random()
        core.offer(stream_id, tokens=rng.randint(1, 500), tenant=rng.choice("xyz"), priority=rng.choice(list(Priority)))
        core.tick(core.now)
        assert (stream_id in core.failed) + (stream_id in core.running) + (stream_id in core.model.queue) == 1
