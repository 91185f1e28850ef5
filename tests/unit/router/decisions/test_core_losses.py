"""What becomes of streams whose replica is lost, and what is counted at those that take them over."""

from __future__ import annotations

import pytest

from serve_app.core.errors import ChannelLost, EngineFailed, EngineLost
from serve_app.router.decisions.messages import AttemptFailed, Dispatch, EngineAccepted, EngineGone
from serve_app.telemetry.reasons import RequeueReason
from tests.unit.router.decisions.driven_core import DrivenCore
from tests.unit.router.decisions.failing_replicas import NO_DELAY, other

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
