"""What the router does about attempts that are overdue, and what it leaves alone."""

from __future__ import annotations

import pytest

from serve_app.core.errors import EngineLost, NoEngineAvailable, StreamStalled
from serve_app.router.decisions.messages import Dispatch, Withdraw
from serve_app.telemetry.reasons import RefusalReason, RequeueReason
from tests.unit.router.decisions.driven_core import DrivenCore

OTHER = {"a": "b", "b": "a"}


def overdue_at(core: DrivenCore) -> float:
    """Seconds after the dispatch at which the first token of a 10-token prompt is overdue."""
    return core.model.attempts.timeouts.first_token_s(10, False, core.now)


# --- first token


def test_stream_moves_when_its_first_token_is_overdue_and_another_replica_has_room():
    core = DrivenCore("a", "b")
    engine = core.begin(1, received=0)
    late_s = overdue_at(core)

    core.tick(late_s - 0.01)
    assert core.withdrawn == []
    core.tick(late_s + 1.0)

    assert core.withdrawn == [Withdraw(1, 1, RequeueReason.FIRST_TOKEN_TIMEOUT, 10)]
    assert core.running[1] == Dispatch(1, 2, OTHER[engine])


def test_overdue_first_token_is_waited_for_while_no_other_replica_has_room():
    core = DrivenCore("a", "b", capacity=1)
    core.begin(1, received=0)
    core.begin(2, received=0)

    core.tick(200.0)
    assert core.withdrawn == []
    core.end(2)
    core.tick(200.1)

    assert core.reasons(1) == [RequeueReason.FIRST_TOKEN_TIMEOUT]


def test_overdue_first_token_is_waited_for_while_there_is_no_budget():
    core = DrivenCore("a", "b", retry={"budget": {"share": 0.0, "min_retries": 0}})
    core.begin(1, received=0)

    core.tick(200.0)

    assert core.withdrawn == []


def test_stream_moves_for_overdue_first_tokens_as_often_as_it_may_be_retried():
    core = DrivenCore("a", "b", retry={"max_retries": 2})
    core.begin(1, received=0)
    for _ in range(6):
        core.now += 200.0
        core.report("a", stepped=True)
        core.report("b", stepped=True)
        core.tick(core.now)
        core.accept(1)

    assert len(core.withdrawn) == 2
    assert core.failed == {}


def test_only_as_many_overdue_streams_move_as_another_replica_has_places_for():
    core = DrivenCore("a", capacity=3)
    for stream_id in (1, 2, 3):
        core.begin(stream_id, received=0)
    core.list_replicas("a", "b")
    core.report("b", capacity=1)

    core.tick(200.0)

    assert len(core.withdrawn) == 1
    assert sorted(dispatch.engine_id for dispatch in core.running.values()) == ["a", "a", "b"]


def test_timely_first_token_is_the_end_of_its_timeout():
    core = DrivenCore("a", "b")
    core.begin(1, received=0)
    core.now = 5.0
    core.tokens(1)
    core.report("a", stepped=True)
    core.report("b", stepped=True)

    core.tick(overdue_at(core) - 5.1)

    assert core.withdrawn == []


def test_timeouts_back_off_when_a_whole_pool_is_late():
    core = DrivenCore("a", "b", capacity=100, retry={"budget": {"share": 1.0}})
    for stream_id in range(20):
        core.begin(stream_id, received=0)
    before_s = overdue_at(core)

    core.tick(before_s + 1.0)

    assert overdue_at(core) > before_s


# --- acceptance


def test_unanswered_dispatches_move_only_where_there_is_a_place_for_each():
    core = DrivenCore("a", capacity=3, accept_timeout_s=2)
    for stream_id in (1, 2, 3):
        core.offer(stream_id)
    core.list_replicas("a", "b")
    core.report("b", capacity=1)

    core.tick(2.0)

    assert [w.reason for w in core.withdrawn] == [RequeueReason.NOT_ACCEPTED]
    assert core.running.keys() == {1, 2, 3}


def test_unanswered_dispatch_costs_neither_retry_nor_budget():
    core = DrivenCore("a", "b", accept_timeout_s=2, retry={"max_retries": 0, "budget": {"share": 0, "min_retries": 0}})
    engine = core.begin_unanswered(1)

    core.tick(2.0)

    assert core.running[1] == Dispatch(1, 2, OTHER[engine])
    assert core.model.streams[1].retries == 0


def test_stream_that_nobody_answers_fails_after_the_dispatch_timeout_over_all_tries():
    core = DrivenCore("a", "b", accept_timeout_s=2, dispatch_timeout_s=5)
    core.begin_unanswered(1)
    core.tick(2.0)
    core.tick(4.0)
    assert core.failed == {}

    core.tick(5.0)

    assert core.errors() == {1: NoEngineAvailable}
    assert core.failed[1].refusal is RefusalReason.NO_ENGINE
    assert [core.view(engine).in_flight for engine in "ab"] == [0, 0]


# --- stalls


def stalled(core: DrivenCore, seconds: float) -> None:
    """Time passes in which the replicas report, but do not step."""
    core.now += seconds
    for engine in core.steps:
        core.report(engine)
    core.tick(core.now)


def test_stream_of_an_engine_that_stands_still_goes_on_elsewhere():
    core = DrivenCore("a", "b")
    engine = core.begin(1, received=4)

    stalled(core, 4.9)
    assert core.withdrawn == []
    stalled(core, 0.2)

    assert core.withdrawn == [Withdraw(1, 1, RequeueReason.STALLED, 14)]
    assert core.running[1] == Dispatch(1, 2, OTHER[engine], replay=True)


def test_stall_is_held_against_its_replica():
    core = DrivenCore("a", "b", replicas={"breaker": {"consecutive_failures": 1}})
    engine = core.begin(1)

    stalled(core, 6.0)

    assert {s.engine_id: s.breaker for s in core.model.policies.snapshot(core.now)}[engine] == "open"


def test_preempted_stream_of_an_engine_that_steps_on_is_left_alone_up_to_the_ceiling():
    core = DrivenCore("a", "b", timeouts={"stall_ceiling_s": 30})
    engine = core.begin(1)
    for _ in range(29):
        core.now += 1.0
        core.report(engine, stepped=True)
        core.report(OTHER[engine], stepped=True)
        core.tick(core.now)
    assert core.withdrawn == []

    core.tick(30.0)

    assert core.reasons(1) == [RequeueReason.STALLED]


def test_stalled_stream_stays_while_no_other_replica_has_room_and_ends_when_it_is_stuck():
    core = DrivenCore("a", timeouts={"stall_ceiling_s": 30})
    core.begin(1)

    stalled(core, 29.9)
    assert core.failed == {}
    stalled(core, 0.2)

    assert core.errors() == {1: StreamStalled}
    assert core.failed[1].refusal is None
    assert core.view("a").in_flight == 0
    assert core.model.budget.repeated == 0


def test_stalled_stream_that_gets_tokens_again_goes_on_where_it_is():
    core = DrivenCore("a", timeouts={"stall_ceiling_s": 30})
    core.begin(1)
    stalled(core, 29.9)

    core.tokens(1)
    stalled(core, 4.0)

    assert core.failed == {}
    assert core.engine_of(1) == "a"


def test_silence_that_a_token_ended_is_learned():
    core = DrivenCore("a", timeouts={"min_samples": 1, "factor": 3.0})
    core.begin(1)
    core.now = 4.0
    core.tokens(1)
    core.end(1)

    assert core.model.attempts.timeouts.stall_s(core.now) > 5.0


def test_stream_without_a_first_token_is_stuck_too():
    core = DrivenCore("a")
    core.begin(1, received=0)

    stalled(core, 299.0)
    assert core.failed == {}
    stalled(core, 1.1)

    assert core.errors() == {1: StreamStalled}


def test_stuck_stream_moves_when_another_replica_has_room():
    core = DrivenCore("a", "b", timeouts={"stall_ceiling_s": 30})
    engine = core.begin(1)

    stalled(core, 31.0)

    assert core.failed == {}
    assert core.engine_of(1) == OTHER[engine]


@pytest.mark.parametrize("config", [{"failover": {"enabled": False}}, {"failover": {"max_losses": 0}}, {}])
def test_stalled_stream_that_may_not_be_continued_is_left_alone_until_it_is_stuck(config):
    core = DrivenCore("a", "b", timeouts={"stall_ceiling_s": 30}, **config)
    core.begin(1, continuable=config != {})

    stalled(core, 29.0)
    assert core.withdrawn == []
    assert core.failed == {}
    stalled(core, 2.0)

    assert core.errors() == {1: StreamStalled}


def test_request_that_stalls_its_replicas_visits_only_so_many():
    core = DrivenCore("a", "b", "c", "d", failover={"max_losses": 2}, timeouts={"stall_ceiling_s": 30})
    core.begin(1)
    for _ in range(4):
        stalled(core, 6.0)
        core.accept(1)
        core.tokens(1)
    assert core.reasons(1) == [RequeueReason.STALLED] * 2

    stalled(core, 31.0)

    assert core.errors() == {1: StreamStalled}


def test_stream_that_was_continued_may_be_continued_again():
    core = DrivenCore("a", "b")
    core.begin(1)
    stalled(core, 6.0)
    core.accept(1)
    core.tokens(1)

    stalled(core, 6.0)

    assert core.reasons(1) == [RequeueReason.STALLED] * 2
    assert core.running[1].replay


def test_repeat_moves_on_with_the_budget_that_it_holds():
    core = DrivenCore("a", "b", retry={"base_delay_s": 0.0, "budget": {"share": 0.0, "min_retries": 1}})
    core.begin(1, received=0)
    core.fail_attempt(1)
    core.accept(1)
    assert core.model.budget.repeated > 0

    core.tick(200.0)

    assert core.reasons(1) == [RequeueReason.ENGINE_FAILED, RequeueReason.FIRST_TOKEN_TIMEOUT]
    core.end(1)
    assert core.model.budget.repeated == 0


def test_stalled_streams_move_only_where_there_is_a_place_for_each():
    core = DrivenCore("a", capacity=3)
    for stream_id in (1, 2, 3):
        core.begin(stream_id)
    core.list_replicas("a", "b")
    core.now = 6.0
    core.report("b", capacity=1)

    core.tick(6.0)

    assert len(core.withdrawn) == 1
    assert core.running.keys() == {1, 2, 3}


# --- draining


def leaving(core: DrivenCore) -> str:
    """Stream 1 runs on a replica that Serve takes off its list; that replica's id."""
    engine = core.begin(1, received=4)
    core.list_replicas(OTHER[engine])
    return engine


def step_on(core: DrivenCore, until: float, *stream_ids: int) -> None:
    """All goes on: heartbeats, steps and tokens."""
    while core.now < until:
        core.now = min(until, core.now + 1.0)
        for engine in list(core.steps):
            if core.model.pool.view(engine) is not None:
                core.report(engine, stepped=True)
        for stream_id in stream_ids:
            core.tokens(stream_id)
        core.tick(core.now)


def test_leaving_replica_goes_on_with_its_streams_and_gets_no_new_ones():
    core = DrivenCore("a", "b", capacity=1)
    engine = leaving(core)
    core.begin(2)
    core.offer(3)

    step_on(core, 59.0, 1, 2)

    assert core.withdrawn == []
    assert core.engine_of(1) == engine
    assert core.engine_of(2) == OTHER[engine]
    assert core.engine_of(3) is None


def test_stream_of_a_leaving_replica_is_handed_over_after_a_while():
    core = DrivenCore("a", "b")
    engine = leaving(core)

    step_on(core, 59.9, 1)
    assert core.withdrawn == []
    step_on(core, 60.0)

    assert core.reasons(1) == [RequeueReason.DRAINING]
    assert core.running[1] == Dispatch(1, 2, OTHER[engine], replay=True)
    assert core.model.pool.view(engine) is None


def test_hand_over_is_not_held_against_the_replica_or_the_stream():
    core = DrivenCore("a", "b", failover={"max_losses": 0}, replicas={"breaker": {"consecutive_failures": 1}})
    leaving(core)
    core.begin(2)

    step_on(core, 61.0, 1, 2)

    assert RequeueReason.DRAINING in core.reasons(1)
    assert core.model.streams[1].losses == 0


def test_hand_over_does_not_open_the_breaker_of_a_replica_that_still_has_streams():
    core = DrivenCore("a", capacity=2, replicas={"breaker": {"consecutive_failures": 1}})
    core.begin(1)
    core.begin(2, continuable=False)
    core.list_replicas("b")
    core.report("b")

    step_on(core, 61.0, 1, 2)

    assert core.engine_of(1) == "b"
    assert core.engine_of(2) == "a"
    assert {s.breaker for s in core.model.policies.snapshot(core.now)} == {"closed"}


def test_room_that_comes_free_is_seen_with_the_next_tick():
    core = DrivenCore("a", "b", capacity=1)
    core.begin(1, received=0)
    core.begin(2, received=0)
    core.tick(200.0)
    core.report(core.running[2].engine_id, capacity=2)

    core.tick(200.0)

    assert core.reasons(1) == [RequeueReason.FIRST_TOKEN_TIMEOUT]


def test_stream_stays_with_its_leaving_replica_while_no_other_has_room():
    core = DrivenCore("a", "b", capacity=1)
    engine = leaving(core)
    core.begin(2)

    step_on(core, 90.0, 1, 2)
    assert core.engine_of(1) == engine
    assert core.failed == {}
    core.end(2)
    core.tick(90.1)

    assert core.engine_of(1) == OTHER[engine]


def test_stream_that_cannot_be_continued_stays_with_its_leaving_replica():
    core = DrivenCore("a", "b")
    engine = core.begin(1, continuable=False)
    core.list_replicas(OTHER[engine])

    step_on(core, 90.0, 1)

    assert core.engine_of(1) == engine
    assert core.failed == {}


def test_replica_that_is_listed_again_keeps_its_streams():
    core = DrivenCore("a", "b")
    engine = leaving(core)
    step_on(core, 50.0, 1)
    core.list_replicas("a", "b")

    step_on(core, 90.0, 1)

    assert core.engine_of(1) == engine
    assert core.withdrawn == []


def test_leaving_replica_that_dies_gives_its_streams_to_others():
    core = DrivenCore("a", "b")
    engine = leaving(core)

    core.lose(engine, EngineLost("shut down"))

    assert core.running[1] == Dispatch(1, 2, OTHER[engine], replay=True)
    assert core.model.pool.view(engine) is None


def test_leaving_replica_is_forgotten_when_its_last_stream_ended():
    core = DrivenCore("a", "b")
    engine = leaving(core)

    core.end(1)

    assert core.model.pool.view(engine) is None
    assert [s.engine_id for s in core.model.policies.snapshot(core.now)] == [OTHER[engine]]
