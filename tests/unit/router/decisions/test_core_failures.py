"""What becomes of streams whose attempt fails: tried again, continued elsewhere, or ended."""

from __future__ import annotations

from serve_app.core.errors import EngineFailed, EngineLost, InvalidRequest, NotContinuable
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import (
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
from serve_app.telemetry.reasons import RequeueReason
from tests.unit.router.decisions.driven_core import MODEL, DrivenCore
from tests.unit.router.decisions.failing_replicas import NO_DELAY, other

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


def test_stream_of_text_without_tokens_never_starts_anew():
    core = DrivenCore("a", "b", retry=NO_DELAY)
    core.begin(1, received=0)
    core.core.tokens_received(1, 0, core.now)  # an external engine's text, which counts no token

    core.fail_attempt(1)

    assert core.running[1].replay


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
    core.handle(Ended(1, False), 3.5)
    [view] = core.model(MODEL).pool.views()
    assert view.in_flight == 0


def test_failed_stream_is_not_dispatched_while_its_end_is_awaited():
    core = raw_core("a", capacity=1)
    core.handle(Offer(1, MODEL, 10, 16, None), 0.0)
    core.handle(EngineAccepted(1, 1, 10), 0.1)
    core.handle(Offer(2, MODEL, 10, 16, None), 0.0)
    assert [c.stream_id for c in core.handle(Tick(), 60.0) if isinstance(c, Fail)] == [2]

    assert core.handle(Ended(1, True), 60.1) == []
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
    assert core.handle(Ended(1, False), 100.1) == []
