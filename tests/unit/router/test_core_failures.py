"""What becomes of streams whose attempt fails: tried again, continued elsewhere, or ended; and what that may cost."""

from __future__ import annotations

import pytest

from serve_app.core.errors import (
    ChannelLost,
    EngineFailed,
    EngineLost,
    InvalidRequest,
    NotContinuable,
    QueueFull,
)
from serve_app.router.core import RouterCore
from serve_app.router.messages import (
    AttemptFailed,
    Dispatch,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    Fail,
    Offer,
    Tick,
    TickAt,
    Withdraw,
)
from serve_app.telemetry.reasons import RefusalReason, RequeueReason
from tests.unit.router.driven_core import MODEL, DrivenCore

NO_DELAY = {"base_delay_s": 0.0}


def other(engine: str) -> str:
    return {"a": "b", "b": "a"}[engine]


def hold(core: DrivenCore, engine: str, *stream_ids: int) -> None:
    """Fill places of one replica with streams that run and take no part."""
    for stream_id in stream_ids:
        core.begin(stream_id)
        assert core.engine_of(stream_id) == engine


# --- the engine raised


def test_failed_attempt_is_tried_again_on_another_replica():
    core = DrivenCore("a", "b", retry=NO_DELAY)
    first = core.begin(1, received=0)

    core.fail_attempt(1)

    assert core.engine_of(1) == other(first)
    assert core.running[1] == Dispatch(1, 2, other(first), replay=False)
    assert core.reasons(1) == [RequeueReason.ENGINE_FAILED]


def test_failed_attempt_is_tried_again_on_the_same_replica_when_there_is_no_other():
    core = DrivenCore("a", retry=NO_DELAY)
    core.begin(1, received=0)

    core.fail_attempt(1)

    assert core.running[1] == Dispatch(1, 2, "a")


def test_retry_waits_for_its_pause_and_asks_for_a_tick_at_its_end():
    core = DrivenCore("a", "b", retry={"base_delay_s": 0.08})
    core.now = 1.0
    core.begin(1, received=0)

    commands = core.tell(AttemptFailed(1, 1, EngineFailed("raised")))

    [due] = core.ticks_asked
    assert commands == [Withdraw(1, 1, RequeueReason.ENGINE_FAILED, 10), TickAt(due)]
    assert 1.0 < due <= 1.08
    core.tick(due - 0.001)
    assert core.engine_of(1) is None
    core.tick(due)
    assert core.engine_of(1) is not None


def test_pauses_grow_with_each_retry():
    core = DrivenCore("a", retry={"base_delay_s": 1.0, "max_delay_s": 1000.0, "max_retries": 6})
    core.begin(1, received=0)
    for _ in range(6):
        core.fail_attempt(1)
        core.tick(core.ticks_asked[-1])
    pauses = [later - sooner for sooner, later in zip([0.0, *core.ticks_asked], core.ticks_asked, strict=False)]
    assert max(pauses[:2]) <= 2.0
    assert max(pauses) > 8.0


def test_stream_fails_with_the_engines_error_after_its_last_retry():
    core = DrivenCore("a", "b", retry={**NO_DELAY, "max_retries": 2})
    core.begin(1, received=0)
    core.fail_attempt(1)
    core.fail_attempt(1)
    assert core.failed == {}

    error = EngineFailed("the third one")
    core.fail_attempt(1, error)

    assert core.failed[1].error is error
    assert core.failed[1].refusal is None
    assert len(core.withdrawn) == 2


def test_error_that_is_not_the_engines_ends_the_stream_and_is_not_held_against_the_replica():
    core = DrivenCore("a", "b", replicas={"breaker": {"consecutive_failures": 1}}, retry=NO_DELAY)
    engine = core.begin(1, received=0)

    core.fail_attempt(1, InvalidRequest("wrong"))

    assert core.errors() == {1: InvalidRequest}
    assert core.withdrawn == []
    assert {s.engine_id: s.breaker for s in core.model.policies.snapshot(0.0)}[engine] == "closed"


def test_failed_replay_is_held_against_the_replica_only_when_the_engine_failed_it():
    core = DrivenCore("a", "b", replicas={"breaker": {"consecutive_failures": 1}}, retry=NO_DELAY)
    engine = core.begin(1, received=0)

    core.fail_attempt(1, NotContinuable("penalties under speculative decoding"))

    assert core.errors() == {1: NotContinuable}
    assert {s.engine_id: s.breaker for s in core.model.policies.snapshot(0.0)}[engine] == "closed"


def test_failed_attempt_is_held_against_its_replica():
    core = DrivenCore("a", "b", replicas={"breaker": {"consecutive_failures": 1}}, retry=NO_DELAY)
    engine = core.begin(1, received=0)

    core.fail_attempt(1)

    assert {s.engine_id: s.breaker for s in core.model.policies.snapshot(0.0)}[engine] == "open"


# --- the first token ends retries, not replays


def test_stream_that_has_begun_goes_on_elsewhere_from_where_it_stands():
    core = DrivenCore("a", "b", retry=NO_DELAY)
    first = core.begin(1, received=3)

    core.fail_attempt(1)

    assert core.running[1] == Dispatch(1, 2, other(first), replay=True)
    assert core.withdrawn == [Withdraw(1, 1, RequeueReason.ENGINE_FAILED, 13)]


def test_failures_after_the_first_token_use_up_no_retries():
    core = DrivenCore("a", "b", retry={**NO_DELAY, "max_retries": 0})
    core.begin(1, received=3)

    core.fail_attempt(1)

    assert core.failed == {}
    assert core.running[1].replay


def test_stream_that_every_replica_fails_is_not_replayed_without_end():
    core = DrivenCore("a", "b", retry=NO_DELAY, failover={"max_losses": 3})
    core.begin(1, received=3)
    for _ in range(3):
        core.fail_attempt(1)
        assert core.failed == {}

    core.fail_attempt(1)

    assert core.errors() == {1: EngineFailed}


def test_without_failover_a_stream_that_has_begun_ends_with_the_error():
    core = DrivenCore("a", "b", failover={"enabled": False})
    engine = core.begin(1, received=3)
    core.begin(2, received=0)

    core.lose(engine)

    assert core.errors() == {1: EngineLost}


def test_without_failover_a_stream_that_has_not_begun_is_still_tried_again():
    core = DrivenCore("a", "b", failover={"enabled": False})
    engine = core.begin(1, received=0)

    core.lose(engine)

    assert core.engine_of(1) == other(engine)


def test_what_cannot_be_continued_ends_with_a_clear_error():
    core = DrivenCore("a", "b")
    engine = core.begin(1, received=3, continuable=False)

    core.lose(engine)

    assert core.errors() == {1: NotContinuable}
    assert core.view(other(engine)).in_flight == 0


def test_what_cannot_be_continued_is_tried_again_before_its_first_token():
    core = DrivenCore("a", "b")
    engine = core.begin(1, received=0, continuable=False)

    core.lose(engine)

    assert core.running[1] == Dispatch(1, 2, other(engine))


# --- the replica was lost


@pytest.mark.parametrize("error", [EngineLost("died"), ChannelLost("silent")])
def test_streams_of_a_lost_replica_go_on_elsewhere_without_using_up_retries(error):
    core = DrivenCore("a", "b", retry={"max_retries": 0, "base_delay_s": 10.0})
    engine = core.begin(1, received=0)

    core.lose(engine, error)

    assert core.engine_of(1) == other(engine)
    assert core.reasons(1) == [RequeueReason.ENGINE_LOST]


def test_lost_part_of_an_answer_counts_as_a_lost_replica():
    core = DrivenCore("a", "b", retry={"max_retries": 0})
    core.begin(1, received=3)

    core.fail_attempt(1, ChannelLost("events are missing"))

    assert core.running[1].replay
    assert core.reasons(1) == [RequeueReason.ENGINE_LOST]


@pytest.mark.parametrize("tokens", [0, 3])
def test_request_that_kills_its_replicas_visits_only_so_many(tokens):
    core = DrivenCore("a", "b", "c", "d", "e", failover={"max_losses": 2})
    core.begin(1, received=tokens)
    for _ in range(2):
        core.lose(core.running[1].engine_id)
        core.accept(1)
        assert core.failed == {}

    core.lose(core.running[1].engine_id)

    assert core.errors() == {1: EngineLost}


def test_request_that_kills_its_replicas_before_they_accept_it_visits_only_so_many():
    core = DrivenCore("a", "b", "c", "d", "e", failover={"max_losses": 2})
    core.offer(1)
    for second in (1, 2):
        core.lose(core.running[1].engine_id)
        core.tick(float(second))
        assert core.failed == {}

    core.lose(core.running[1].engine_id)

    assert core.errors() == {1: EngineLost}


def test_first_loss_before_the_replica_accepted_costs_neither_time_nor_budget():
    core = DrivenCore("a", "b")
    engine = core.begin_unanswered(1)

    core.lose(engine)

    assert core.engine_of(1) == other(engine)
    assert [w.wasted_tokens for w in core.withdrawn] == [0]
    assert core.model.budget.repeated == 0


def test_stream_does_not_lose_its_tries_to_replicas_that_died_together():
    core = DrivenCore("a", "b", "c", "d", "e", "f", failover={"max_losses": 2})
    core.begin_unanswered(1)
    core.lose(core.running[1].engine_id)
    core.lose(core.running[1].engine_id)
    assert core.engine_of(1) is None, "it waits until all deaths are known"
    for engine in "abcde":
        core.lose(engine)
    [due] = core.ticks_asked

    core.tick(due)

    assert core.engine_of(1) == "f"


def test_loss_of_an_unknown_engine_changes_nothing():
    core = DrivenCore("a")
    core.begin(1)

    assert core.tell(EngineGone("nobody", EngineLost("gone"))) == []
    assert core.engine_of(1) == "a"


def test_replica_that_fell_silent_is_used_again_after_its_next_report():
    core = DrivenCore("a")
    core.begin(1, received=2)
    core.lose("a", ChannelLost("silent"))
    assert core.engine_of(1) is None

    core.report("a")

    assert core.running[1] == Dispatch(1, 2, "a", replay=True)


def test_what_is_told_of_an_older_attempt_is_void():
    core = DrivenCore("a", "b", retry=NO_DELAY)
    core.begin(1, received=0)
    core.fail_attempt(1)
    view = core.view(core.running[1].engine_id)
    outstanding = view.outstanding_tokens

    assert core.tell(AttemptFailed(1, 1, EngineFailed("late"))) == []
    assert core.tell(EngineAccepted(1, 1, 5000)) == []

    assert view.outstanding_tokens == outstanding
    assert core.running[1].attempt == 2


def test_tokens_of_a_withdrawn_attempt_do_not_count():
    core = DrivenCore("a")
    core.begin(1, received=2)
    core.lose("a")

    core.core.tokens_received(1, 5, 0.1)

    assert core.model.streams[1].output_tokens == 2


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
    assert core.model.waiting == 1
    core.tick(0.1)
    assert core.running.keys() == {1}


@pytest.mark.parametrize("completed", [True, False])
def test_end_of_a_repeat_gives_its_budget_to_the_next(completed):
    core = failing_pool()

    core.end(1, completed)

    assert core.running.keys() == {2}
    core.end(2)
    assert core.model.budget.repeated == 0
    assert core.model.waiting == 0


def test_stream_cancelled_while_it_waits_for_budget_leaves_nothing_behind():
    core = failing_pool()

    core.end(2, completed=False)
    core.end(1)

    assert core.running == {}
    assert core.model.waiting == 0
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


# --- what is counted at the replicas


def test_stream_that_outlives_its_expectation_does_not_make_its_replica_look_empty():
    core = DrivenCore("a", "b", capacity=20)
    engine = core.begin(1, received=5000, max_tokens=None)

    assert core.view(engine).outstanding_tokens > 0
    core.end(1)
    assert core.view(engine).outstanding_tokens == 0


def test_lease_of_a_stream_is_its_prompt_and_the_output_that_is_still_ahead():
    core = DrivenCore("a", "b", capacity=20)
    engine = core.begin(1, received=6, max_tokens=16)
    assert core.view(engine).outstanding_tokens == 10 + 10

    core.lose(engine)

    assert core.view(other(engine)).outstanding_tokens == 10 + 10
    assert core.model.streams[1].leased_tokens == 10 + 10


def test_wasted_tokens_are_those_that_an_accepted_attempt_had_computed():
    core = DrivenCore("a", "b", "c", "d")
    core.offer(1)
    core.refuse(1)
    core.accept(1, prompt_tokens=30)
    core.lose(core.running[1].engine_id)
    core.accept(1, prompt_tokens=30)
    core.tokens(1, 7)
    core.lose(core.running[1].engine_id)

    assert [w.wasted_tokens for w in core.withdrawn] == [0, 30, 37]


# --- between an order and what the shell tells of it


def raw_core(*engines: str, capacity: int = 2) -> RouterCore:
    """A core whose orders to fail a stream are not answered with `Ended` yet."""
    driven = DrivenCore(*engines, capacity=capacity)
    return driven.core


def test_stream_is_failed_once_however_long_its_end_takes():
    core = raw_core("a")
    core.handle(Offer(1, MODEL, 10, 16, deadline=3.0), 0.0)
    core.handle(EngineAccepted(1, 1, 10), 0.1)
    assert [type(command) for command in core.handle(Tick(), 3.0)] == [Fail]

    assert core.handle(Tick(), 3.1) == []
    assert core.handle(AttemptFailed(1, 1, EngineLost("gone")), 3.2) == []
    assert core.handle(EngineGone("a", EngineLost("gone")), 3.3) == []
    assert core.handle(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL), 3.4) == []
    core.handle(Ended(1, 0, False), 3.5)
    [view] = core.model(MODEL).pool.views()
    assert view.in_flight == 0


def test_failed_stream_is_not_dispatched_while_its_end_is_awaited():
    core = raw_core("a", capacity=1)
    core.handle(Offer(1, MODEL, 10, 16, None), 0.0)
    core.handle(EngineAccepted(1, 1, 10), 0.1)
    core.handle(Offer(2, MODEL, 10, 16, None), 0.0)
    assert [c.stream_id for c in core.handle(Tick(), 60.0) if isinstance(c, Fail)] == [2]

    assert core.handle(Ended(1, 5, True), 60.1) == []
    assert core.handle(Tick(), 60.2) == []


def test_stream_whose_first_pause_ends_after_it_failed_is_not_dispatched():
    core = raw_core("a")
    core.handle(Offer(1, MODEL, 10, 16, deadline=0.01), 0.0)
    core.handle(AttemptFailed(1, 1, EngineFailed("raised")), 0.0)
    assert [type(command) for command in core.handle(Tick(), 1.0)] == [Fail]

    assert core.handle(Tick(), 2.0) == []


def test_late_refusal_of_an_accepted_attempt_is_void():
    core = raw_core("a", "b")
    core.handle(Offer(1, MODEL, 10, 16, None), 0.0)
    core.handle(EngineAccepted(1, 1, 10), 0.1)

    assert core.handle(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL), 0.2) == []


def test_stuck_stream_gives_its_place_back_at_once():
    core = raw_core("a")
    core.handle(Offer(1, MODEL, 10, 16, None), 0.0)
    core.handle(EngineAccepted(1, 1, 10), 0.1)
    core.tokens_received(1, 1, 0.2)

    assert [type(command) for command in core.handle(Tick(), 100.0)] == [Fail]

    [view] = core.model(MODEL).pool.views()
    assert view.in_flight == 0
    assert core.handle(Ended(1, 1, False), 100.1) == []


def test_work_in_flight_is_no_longer_counted_for_the_budget_when_it_ended():
    core = DrivenCore("a", retry={**NO_DELAY, "budget": {"share": 0.2, "min_retries": 0}})
    core.begin(1, received=0)
    core.end(1)
    core.begin(2, received=0)

    core.fail_attempt(2)

    assert core.running == {}
    assert core.model.budget.left == 0.0
