from __future__ import annotations

import random

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.core.errors import ChannelLost, DeadlineExceeded, EngineLost, NoEngineAvailable, QueueFull
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import (
    Dispatch,
    DispatchRefused,
    Ended,
    EngineAccepted,
    EngineGone,
    EngineReported,
    Fail,
    Offer,
    ReplicasListed,
    Tick,
    Wake,
    Withdraw,
)
from serve_app.telemetry.reasons import RequeueReason

MODEL = "m"


def make_core(queue: int = 256, admission: dict[str, object] | None = None, **config) -> RouterCore:
    bands = {band: {"requests": queue} for band in ("interactive", "default", "batch")}
    config["admission"] = {"bands": bands, **(admission or {})}
    return RouterCore([MODEL], RouterConfig(**config), random.Random(0))


def status(
    engine_id: str,
    capacity: int = 2,
    routers: int = 1,
    ready: bool = True,
    steps: int = 1000,
    running: int = 0,
    generations: int = 0,
) -> EngineStatus:
    """A heartbeat of a replica that has long been in service, so that it does not start slowly."""
    load = EngineLoad(steps=steps, generated_tokens=1_000_000, running=running)
    return EngineStatus(engine_id, MODEL, load, capacity, generations, routers, ready, 2048)


def with_engines(core: RouterCore, *engine_ids: str, capacity: int = 2) -> RouterCore:
    core.handle(ReplicasListed(MODEL, frozenset(engine_ids)), 0.0)
    for engine_id in engine_ids:
        core.handle(EngineReported(status(engine_id, capacity)), 0.0)
    return core


def offer(stream_id: int, tokens: int = 10, deadline: float | None = None, max_tokens: int | None = 16) -> Offer:
    return Offer(stream_id, MODEL, tokens, max_tokens, deadline)


def dispatched(commands) -> list[tuple[int, str]]:
    return [(c.stream_id, c.engine_id) for c in commands if isinstance(c, Dispatch)]


def withdrawn(commands) -> dict[int, RequeueReason]:
    return {c.stream_id: c.reason for c in commands if isinstance(c, Withdraw)}


def failures(commands) -> dict[int, type]:
    return {c.stream_id: type(c.error) for c in commands if isinstance(c, Fail)}


def test_request_is_dispatched_at_once_when_an_engine_has_room():
    core = with_engines(make_core(), "a")
    assert core.handle(offer(1), 1.0) == [Dispatch(1, 1, "a")]


def test_request_can_start_at_once_even_with_a_queue_of_zero():
    core = with_engines(make_core(queue=0), "a", capacity=1)

    assert dispatched(core.handle(offer(1), 1.0)) == [(1, "a")]
    assert failures(core.handle(offer(2), 1.0)) == {2: QueueFull}


def test_request_waits_when_engines_are_full_and_starts_when_one_ends():
    core = with_engines(make_core(), "a", capacity=1)
    core.handle(offer(1), 1.0)

    assert core.handle(offer(2), 1.1) == []
    assert core.queue_position(2) == 0
    assert dispatched(core.handle(Ended(1, True), 2.0)) == [(2, "a")]
    assert core.queue_position(2) is None


def test_full_queue_refuses_with_a_retry_hint():
    core = with_engines(make_core(queue=1), "a", capacity=1)
    core.handle(offer(1), 1.0)
    core.handle(offer(2), 1.0)

    [refusal] = core.handle(offer(3), 1.0)

    assert isinstance(refusal, Fail)
    assert isinstance(refusal.error, QueueFull)
    assert 1.0 <= refusal.error.retry_after_s <= 60.0


def test_with_wait_an_offer_stands_in_line_until_its_time_is_over():
    core = with_engines(
        make_core(queue=1, admission={"when_full": "wait", "in_line_timeout_s": 5, "queue_timeout_s": 60}),
        "a",
        capacity=1,
    )
    for stream_id in (1, 2, 3):
        assert failures(core.handle(offer(stream_id), 1.0)) == {}

    assert failures(core.handle(Tick(), 5.9)) == {}
    assert failures(core.handle(Tick(), 6.0)) == {3: QueueFull}


def test_who_moved_up_from_the_line_is_bound_by_the_queue_timeout():
    core = with_engines(
        make_core(queue=1, admission={"when_full": "wait", "in_line_timeout_s": 5, "queue_timeout_s": 60}),
        "a",
        capacity=1,
    )
    for stream_id in (1, 2, 3):
        core.handle(offer(stream_id), 1.0)
    core.handle(Ended(1, True), 2.0)
    core.handle(EngineAccepted(2, 1, 10), 2.1)

    assert failures(core.handle(Tick(), 10.0)) == {}
    assert failures(core.handle(Tick(), 61.0)) == {3: QueueFull}


def test_queued_request_is_refused_after_the_queue_timeout():
    core = with_engines(make_core(admission={"queue_timeout_s": 10}), "a", capacity=1)
    core.handle(offer(1), 1.0)
    core.handle(EngineAccepted(1, 1, 10), 1.1)
    core.handle(offer(2), 1.0)

    assert failures(core.handle(Tick(), 10.9)) == {}
    assert failures(core.handle(Tick(), 11.0)) == {2: QueueFull}


def test_without_a_ready_engine_requests_wait_then_get_no_engine():
    core = make_core(no_engine_timeout_s=20)
    core.handle(offer(1), 1.0)
    core.handle(Tick(), 1.1)

    assert failures(core.handle(Tick(), 20.9)) == {}
    assert failures(core.handle(Tick(), 21.2)) == {1: NoEngineAvailable}


def test_demand_without_replicas_wakes_the_model():
    core = make_core()

    assert core.handle(offer(1), 1.0) == [Wake(MODEL)]
    assert Wake(MODEL) in core.handle(Tick(), 1.1)


def test_waiting_requests_start_when_the_first_engine_reports():
    core = make_core()
    core.handle(offer(1), 1.0)
    core.handle(ReplicasListed(MODEL, frozenset({"a"})), 2.0)

    assert dispatched(core.handle(EngineReported(status("a")), 2.1)) == [(1, "a")]


def test_engine_that_serve_does_not_list_gets_no_work():
    core = with_engines(make_core(), "a", "b")
    core.handle(ReplicasListed(MODEL, frozenset({"b"})), 1.0)

    assert {engine for _, engine in dispatched(core.handle(offer(1), 1.1))} == {"b"}


def test_engine_that_is_not_ready_gets_no_work():
    core = with_engines(make_core(), "a")
    core.handle(EngineReported(status("a", ready=False)), 1.0)

    assert dispatched(core.handle(offer(1), 1.1)) == []


def test_capacity_is_divided_among_live_routers():
    core = with_engines(make_core(), "a", capacity=4)
    core.handle(EngineReported(status("a", capacity=4, routers=2, generations=2)), 0.5)

    started = [dispatched(core.handle(offer(stream_id), 1.0)) for stream_id in (1, 2, 3)]

    assert started == [[(1, "a")], [(2, "a")], []]


def test_load_spreads_by_outstanding_tokens():
    core = with_engines(make_core(), "a", "b", capacity=10)
    [(_, first)] = dispatched(core.handle(offer(1, tokens=5000), 1.0))
    others = {engine for s in (2, 3, 4) for _, engine in dispatched(core.handle(offer(s, tokens=10), 1.0))}

    assert others == {"a", "b"} - {first}


def test_outstanding_tokens_return_to_zero_and_follow_the_tokens_that_came():
    core = with_engines(make_core(), "a", capacity=10)
    core.handle(offer(1, tokens=100, max_tokens=50), 1.0)
    core.handle(offer(2, tokens=10, max_tokens=20), 1.0)
    [view] = core.pool(MODEL).views()
    assert view.outstanding_tokens == 180

    core.handle(EngineAccepted(1, 1, 120), 1.1)
    core.tokens_received(1, 30, 1.2)
    assert view.outstanding_tokens == 170

    core.handle(Ended(1, True), 2.0)
    assert (view.in_flight, view.outstanding_tokens) == (1, 30)


def test_refused_dispatch_goes_back_to_the_head_and_to_another_engine():
    core = with_engines(make_core(), "a", "b", capacity=1)
    [(_, first)] = dispatched(core.handle(offer(1), 1.0))
    core.handle(offer(2), 1.0)
    core.handle(offer(3), 1.0)

    commands = core.handle(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL), 1.1)

    assert commands == [Withdraw(1, 1, RequeueReason.ENGINE_FULL)]  # the other engine is taken by stream 2
    second = ({"a", "b"} - {first}).pop()
    assert dispatched(core.handle(Ended(2, True), 1.2)) == [(1, second)]


def test_engine_that_refused_is_asked_again_only_after_its_next_report():
    core = with_engines(make_core(), "a")
    core.handle(offer(1), 1.0)

    assert dispatched(core.handle(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL), 1.1)) == []
    assert dispatched(core.handle(Tick(), 1.2)) == []
    assert core.handle(EngineReported(status("a")), 1.3) == [Dispatch(1, 2, "a")]


def test_late_refusal_of_an_older_attempt_changes_nothing():
    core = with_engines(make_core(), "a", "b")
    core.handle(offer(1), 1.0)
    core.handle(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL), 1.1)

    assert core.handle(DispatchRefused(1, 1, RequeueReason.ENGINE_FULL), 1.2) == []


def test_unaccepted_dispatch_moves_to_another_engine_with_room():
    core = with_engines(make_core(accept_timeout_s=2), "a", "b")
    [(_, first)] = dispatched(core.handle(offer(1), 1.0))

    assert core.handle(Tick(), 2.9) == []
    commands = core.handle(Tick(), 3.0)

    second = ({"a", "b"} - {first}).pop()
    assert commands == [Withdraw(1, 1, RequeueReason.NOT_ACCEPTED), Dispatch(1, 2, second)]


def test_unaccepted_dispatch_stays_when_there_is_no_other_engine():
    core = with_engines(make_core(accept_timeout_s=2, dispatch_timeout_s=30), "a")
    core.handle(offer(1), 1.0)

    assert core.handle(Tick(), 10.0) == []
    assert failures(core.handle(Tick(), 31.0)) == {1: NoEngineAvailable}


def test_streams_of_a_lost_engine_wait_for_another_one():
    core = with_engines(make_core(), "a")
    core.handle(offer(1), 1.0)
    core.handle(offer(2), 1.0)
    core.handle(EngineAccepted(1, 1, 10), 1.1)
    core.tokens_received(1, 3, 1.2)

    commands = core.handle(EngineGone("a", EngineLost("gone")), 2.0)

    assert failures(commands) == {}
    assert withdrawn(commands) == {1: RequeueReason.ENGINE_LOST, 2: RequeueReason.ENGINE_LOST}
    core.handle(ReplicasListed(MODEL, frozenset({"b"})), 2.5)
    commands = core.handle(EngineReported(status("b")), 3.0)
    assert {(c.stream_id, c.engine_id, c.replay) for c in commands if isinstance(c, Dispatch)} == {
        (1, "b", True),
        (2, "b", False),
    }


def test_silent_engine_gets_no_work_until_it_reports():
    core = with_engines(make_core(), "a")
    core.handle(EngineGone("a", ChannelLost("silent")), 1.0)

    assert dispatched(core.handle(offer(1), 1.1)) == []
    assert dispatched(core.handle(EngineReported(status("a")), 1.2)) == [(1, "a")]


def test_deadline_ends_waiting_and_running_requests_once():
    core = with_engines(make_core(), "a", capacity=1)
    core.handle(offer(1, deadline=5.0), 1.0)
    core.handle(EngineAccepted(1, 1, 10), 1.1)
    core.handle(offer(2, deadline=6.0), 1.0)

    assert failures(core.handle(Tick(), 4.9)) == {}
    assert failures(core.handle(Tick(), 5.0)) == {1: DeadlineExceeded}
    assert failures(core.handle(Tick(), 6.0)) == {2: DeadlineExceeded}
    assert failures(core.handle(Tick(), 7.0)) == {}


def test_cancelled_waiting_request_leaves_the_queue():
    core = with_engines(make_core(), "a", capacity=1)
    core.handle(offer(1), 1.0)
    core.handle(offer(2), 1.0)
    core.handle(Ended(2, False), 1.5)

    assert len(core.model(MODEL).queue) == 0
    assert dispatched(core.handle(Ended(1, True), 2.0)) == []


def test_can_admit_while_the_model_sleeps_but_not_with_a_full_queue():
    core = make_core(queue=1)
    assert core.can_admit(1.0)
    core.handle(offer(1), 1.0)
    assert not core.can_admit(1.0)
