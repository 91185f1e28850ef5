"""When a stream gets a second attempt beside its first, and what becomes of the two."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.core.errors import EngineFailed, InvalidRequest
from serve_app.core.request import Priority
from serve_app.router.decisions.messages import (
    AttemptFailed,
    Dispatch,
    DispatchRefused,
    EngineAccepted,
    HedgeWon,
    Withdraw,
)
from serve_app.telemetry.reasons import RequeueReason
from tests.unit.router.decisions.driven_core import DrivenCore

TYPICAL_S = 0.25
OTHER = {"a": "b", "b": "a"}
HEDGING = {"enabled": True, "target_s": 4.0, "lead": 2.0}
SENT_AT = 103.5
"""For a stream that is offered at 100 s: two typical times before the 4 s are over."""


def hedging_core(*engines: str, capacity: int = 4, **config: Any) -> DrivenCore:
    """It has seen first tokens that took `TYPICAL_S`, and it is 100 s."""
    merged: dict[str, Any] = {"hedging": HEDGING, "accept_timeout_s": 10.0, **config}
    core = DrivenCore(*engines, capacity=capacity, **merged)
    for stream_id in range(1000, 1008):
        core.begin(stream_id, received=0)
        core.now += TYPICAL_S
        core.tokens(stream_id)
        core.end(stream_id)
    core.now = 100.0
    for engine in engines:
        core.report(engine, stepped=True)
    return core


def hedged_core(accepted: bool = True, **config: Any) -> DrivenCore:
    """Stream 1 has two attempts, at a and b; both replicas have accepted it, or none."""
    core = hedging_core("a", "b", **config)
    core.offer(1)
    if accepted:
        core.accept(1)
    core.tick(SENT_AT)
    if accepted:
        core.tell(EngineAccepted(1, core.hedges[1].attempt, 10))
    return core


def nothing_is_held(core: DrivenCore) -> bool:
    views = [core.view(engine) for engine in core.steps]
    budget = core.model.budget
    return (
        all(view.in_flight == view.outstanding_tokens == view.awaiting_tokens == 0 for view in views)
        and all(snapshot.in_flight == 0 for snapshot in core.model.policies.snapshot(core.now))
        and (budget.repeated, budget._in_flight, budget._repeats) == (0, 0, 0)
    )


# --- when


def test_a_stream_without_a_first_token_gets_a_second_attempt_elsewhere_just_before_it_is_late() -> None:
    core = hedging_core("a", "b")
    first = core.begin(1, received=0)
    core.tick(SENT_AT - 0.01)
    assert core.hedges == {}

    core.tick(SENT_AT)

    assert core.hedges[1] == Dispatch(1, 2, OTHER[first], hedge=True)
    assert core.running[1].engine_id == first
    assert core.withdrawn == []


def test_the_moment_between_two_ticks_gets_a_tick_of_its_own() -> None:
    core = hedging_core("a", "b")
    core.begin(1, received=0)
    core.tick(103.3)
    core.tick(103.45)
    assert core.ticks_asked == [pytest.approx(SENT_AT)]


def test_many_streams_that_are_about_to_be_late_ask_for_few_ticks() -> None:
    core = hedging_core("a", "b", capacity=200)
    for number in range(100):
        core.now = 100.0 + number / 2000
        core.begin(number, received=0)
    core.tick(103.3)
    core.tick(103.49)

    assert 0 < len(core.ticks_asked) <= 10


def test_without_hedging_there_is_no_second_attempt() -> None:
    core = hedging_core("a", "b", hedging={"target_s": 4.0})
    core.begin(1, received=0)
    core.tick(103.45)
    core.tick(SENT_AT)
    assert core.hedges == {}
    assert core.ticks_asked == []


def test_without_a_time_of_its_own_the_objective_of_the_band_counts() -> None:
    core = hedging_core(
        "a", "b", hedging={**HEDGING, "target_s": None}, first_token_objectives_s={"interactive": 2.0, "batch": None}
    )
    core.offer(1, priority=Priority.INTERACTIVE)
    core.offer(2, priority=Priority.BATCH)
    core.accept(1)
    core.accept(2)
    for now in (101.5, 103.5, 109.0):
        core.tick(now)

    assert core.hedges.keys() == {1}


def test_a_stream_that_has_begun_gets_no_second_attempt() -> None:
    core = hedging_core("a", "b")
    core.begin(1)
    core.tick(SENT_AT)
    assert core.hedges == {}


def test_a_request_of_which_two_attempts_must_not_run_gets_no_second_one() -> None:
    core = hedging_core("a", "b")
    core.begin(1, received=0, hedgeable=False)
    core.tick(SENT_AT)
    assert core.hedges == {}


def test_when_a_second_attempt_would_be_late_as_well_none_is_sent() -> None:
    core = hedging_core("a", "b")
    core.begin(1, received=0)
    core.tick(103.8)
    assert core.hedges == {}


def test_a_stream_that_was_just_dispatched_is_given_the_typical_time() -> None:
    core = hedging_core("a", "b")
    core.begin(1, received=0)
    core.now = 103.4
    core.fail_attempt(1)
    core.tick(103.45)
    core.accept(1)
    core.tick(103.6)
    assert core.hedges == {}
    core.tick(103.72)
    assert core.hedges.keys() == {1}


def test_before_first_tokens_were_seen_nothing_is_typical() -> None:
    core = DrivenCore("a", "b", hedging=HEDGING)
    core.now = 100.0
    core.begin(1, received=0)
    core.tick(SENT_AT)
    assert core.hedges == {}


def test_there_is_one_second_attempt_only() -> None:
    core = hedged_core()
    core.now += 0.01
    core.lose(core.hedges[1].engine_id)
    core.report("a", stepped=True)
    core.report("b", stepped=True)
    core.tick(core.now + 0.01)

    assert core.hedges == {}
    assert core.running[1].attempt == 1


def test_a_second_attempt_never_takes_a_place_that_somebody_waits_for() -> None:
    core = hedging_core("a", "b", capacity=1)
    core.begin(1, received=0)
    core.begin(2, received=0)
    core.offer(3)
    core.tick(SENT_AT)
    assert core.hedges == {}


def test_while_another_stream_waits_for_its_next_try_there_is_no_second_attempt() -> None:
    core = hedging_core("a", "b", retry={"base_delay_s": 1000.0, "max_delay_s": 1000.0})
    core.begin(1, received=0)
    core.begin(2, received=0)
    core.fail_attempt(2)
    core.tick(SENT_AT)
    assert core.engine_of(2) is None
    assert core.hedges == {}


def test_a_full_pool_has_no_room_for_second_attempts() -> None:
    core = hedging_core("a", "b", capacity=1)
    core.begin(1, received=0)
    core.begin(2)
    core.tick(SENT_AT)
    assert core.hedges == {}
    core.end(2)
    core.tick(SENT_AT + 0.1)
    assert core.hedges.keys() == {1}


@pytest.mark.parametrize("same_replica", [False, True])
def test_a_single_replica_gets_both_attempts_only_where_that_is_said_to_help(same_replica: bool) -> None:
    core = hedging_core("a", hedging={**HEDGING, "same_replica": same_replica})
    core.begin(1, received=0)
    core.tick(SENT_AT)
    assert (1 in core.hedges) is same_replica


def test_second_attempts_take_from_the_retry_budget() -> None:
    core = hedging_core("a", "b", retry={"budget": {"share": 0.0, "min_retries": 1}})
    core.begin(1, received=0)
    core.begin(2, received=0)
    core.tick(SENT_AT)
    assert len(core.hedges) == 1
    assert core.model.budget.repeated > 0


# --- which one goes on


def test_the_first_attempt_wins_by_its_first_token() -> None:
    core = hedged_core()
    core.now = 103.6
    core.tokens(1)

    assert core.withdrawn == [Withdraw(1, 2, RequeueReason.OUTRUN, 10)]
    assert core.running[1].attempt == 1
    core.end(1)
    assert nothing_is_held(core)


def test_the_second_attempt_wins_by_its_first_token() -> None:
    core = hedged_core()
    core.now = 103.7
    second = core.hedges[1]
    core.tell(HedgeWon(1, 2))
    assert core.withdrawn == [Withdraw(1, 1, RequeueReason.OUTRUN, 10)]
    assert core.running[1] == second
    core.tokens(1, 5)

    assert core.view(second.engine_id).in_flight == 1
    assert core.view(OTHER[second.engine_id]).in_flight == 0
    core.end(1)
    assert nothing_is_held(core)


def test_the_time_to_first_token_is_that_of_the_attempt_that_gave_it() -> None:
    core = hedged_core()
    core.now = 103.75
    core.tell(HedgeWon(1, 2))
    core.tokens(1)
    assert core.model.streams[1].dispatched_at == SENT_AT
    assert core.model.attempts.timeouts.typical_first_token_s(10, 1, core.now) == pytest.approx(TYPICAL_S)


@pytest.mark.parametrize("number", [1, 3])
def test_only_the_second_attempt_can_win_as_such(number: int) -> None:
    core = hedged_core()
    assert core.tell(HedgeWon(1, number)) == []
    assert core.hedges.keys() == {1}


def test_after_the_first_token_a_second_attempt_wins_no_more() -> None:
    core = hedged_core()
    core.core.tokens_received(1, 1, core.now)
    core.tell(HedgeWon(1, 2))

    assert core.withdrawn == [Withdraw(1, 2, RequeueReason.OUTRUN, 10)]


def test_what_no_engine_had_begun_is_no_waste() -> None:
    core = hedged_core(accepted=False)
    core.accept(1)
    core.tokens(1)
    assert core.withdrawn == [Withdraw(1, 2, RequeueReason.OUTRUN, 0)]


def test_attempts_after_a_second_one_have_numbers_of_their_own() -> None:
    core = hedged_core(retry={"base_delay_s": 0.0})
    core.tell(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL))  # void: it was accepted
    core.fail_attempt(1)  # the second one goes on
    core.fail_attempt(1)
    core.tick(core.now + 0.1)

    assert core.running[1].attempt == 3


# --- when one of them fails


def test_if_the_first_attempt_fails_the_second_one_goes_on() -> None:
    core = hedged_core()
    second = core.hedges[1]
    core.fail_attempt(1)

    assert core.withdrawn == [Withdraw(1, 1, RequeueReason.ENGINE_FAILED, 10)]
    assert core.running == {1: second}
    assert core.model.budget.repeated > 0, "what runs is a repeat"
    core.tokens(1)
    core.end(1)
    assert nothing_is_held(core)


def test_if_the_second_attempt_fails_the_first_one_goes_on() -> None:
    core = hedged_core()
    core.tell(AttemptFailed(1, 2, EngineFailed("raised")))

    assert core.withdrawn == [Withdraw(1, 2, RequeueReason.ENGINE_FAILED, 10)]
    assert core.running[1].attempt == 1
    assert core.model.budget.repeated == 0


@pytest.mark.parametrize("number", [1, 2])
def test_a_replica_that_dies_takes_one_of_the_attempts_with_it(number: int) -> None:
    core = hedged_core()
    at = {1: core.running[1].engine_id, 2: core.hedges[1].engine_id}
    core.lose(at[number])

    assert core.withdrawn == [Withdraw(1, number, RequeueReason.ENGINE_LOST, 10)]
    assert core.running[1].engine_id == OTHER[at[number]]
    core.lose(OTHER[at[number]])
    assert core.engine_of(1) is None


def test_a_replica_that_dies_with_both_attempts_has_the_stream_tried_again() -> None:
    core = hedging_core("a", hedging={**HEDGING, "same_replica": True})
    core.begin(1, received=0)
    core.tick(SENT_AT)
    core.list_replicas("a", "b")
    core.report("b")
    core.lose("a")
    core.tick(SENT_AT + 0.5)

    assert core.running[1] == Dispatch(1, 3, "b")


@pytest.mark.parametrize("number", [1, 2])
def test_a_replica_that_refuses_one_attempt_leaves_the_other(number: int) -> None:
    core = hedged_core(accepted=False)
    at = {1: core.running[1].engine_id, 2: core.hedges[1].engine_id}
    core.tell(DispatchRefused(1, number, RequeueReason.ENGINE_FULL))

    assert core.withdrawn == [Withdraw(1, number, RequeueReason.ENGINE_FULL, 0)]
    assert core.view(at[number]).refused
    assert core.running[1].engine_id == at[3 - number]


def test_a_request_that_is_wrong_is_not_left_to_its_second_attempt() -> None:
    core = hedged_core()
    core.fail_attempt(1, InvalidRequest("wrong"))
    assert core.errors() == {1: InvalidRequest}
    assert nothing_is_held(core)


def test_an_overdue_first_attempt_is_given_up_for_the_second_one_which_is_watched_in_turn() -> None:
    core = hedged_core(timeouts={"first_token_floor_s": 5.0})
    second = core.hedges[1]
    core.tick(105.1)
    assert core.withdrawn == [Withdraw(1, 1, RequeueReason.FIRST_TOKEN_TIMEOUT, 10)]
    assert core.running[1] == second

    core.tick(108.6)
    assert core.reasons(1) == [RequeueReason.FIRST_TOKEN_TIMEOUT] * 2


def test_when_the_stream_ends_both_attempts_are_given_back() -> None:
    core = hedged_core()
    core.end(1, completed=False)
    assert nothing_is_held(core)


def test_when_the_deadline_passes_both_attempts_are_given_back() -> None:
    core = hedging_core("a", "b")
    core.offer(1, deadline=103.9)
    core.accept(1)
    core.tick(SENT_AT)
    assert core.hedges.keys() == {1}
    core.tick(103.9)
    assert nothing_is_held(core)
