"""What an engine holds for streams that can be resumed, without engine, loop or time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from serve_app.core.errors import EngineFailed, StreamCancelled
from serve_app.core.events import Accepted, Failed, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import Continuation, GenerationRequest, Prompt, Retention
from serve_app.engine.kept_generations import KeptGenerations
from serve_app.resilience.retention import RetentionConfig
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.handover import Claim, HandedOver, Moved
from serve_app.token_channel.packed_events import pack, unpack

RETENTION = Retention("k", b"env", 10.0)
REQUEST = GenerationRequest("r", "m", Prompt(text="hi"), tenant="t", retention=RETENTION)
CLAIM = Claim("k", "t", "r2")
BEGUN: list[StreamEvent] = [Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [5]), TokenDelta(0, 1, 2, "b", [6, 7])]
FINISHED = Finished(0, FinishReason.STOP)
KEY = ("r1", 1, 1)


class Router:
    """The signs of life of the one router: `acknowledges` stands for an acknowledged report."""

    def __init__(self) -> None:
        self.reports = 0
        self.acknowledged = -1
        self.known = True

    def acknowledges(self) -> None:
        self.acknowledged = self.reports
        self.reports += 1

    def mark(self, router_id: str) -> int | None:
        assert router_id in ("r1", "r2")
        return self.reports if self.known else None

    def acknowledged_since(self, router_id: str, mark: int) -> bool:
        return self.acknowledged >= mark


class Bench:
    """One generation of router `r1`."""

    def __init__(
        self, request: GenerationRequest = REQUEST, events: Sequence[StreamEvent] = BEGUN, **bounds: float
    ) -> None:
        self.router = Router()
        self.router.acknowledges()
        self.held = KeptGenerations(RetentionConfig.model_validate(bounds), self.router)
        self.events = EventLog(events)
        assert self.held.begin(request, KEY, self.events, 0.0) is None

    def claim(self, now: float = 1.0, claim: Claim = CLAIM) -> HandedOver:
        answer, _ = self.held.claim(claim, now)
        assert isinstance(answer, HandedOver)
        return answer


def test_a_claimed_generation_is_handed_over_whole_and_aborted():
    bench = Bench()
    answer, aborted = bench.held.claim(CLAIM, 1.0)

    assert isinstance(answer, HandedOver)
    assert (unpack(answer.parts), answer.position, answer.ended) == (BEGUN, 3, False)
    assert answer.request == REQUEST
    assert aborted == KEY
    bench.held.end(KEY, 1.1)
    assert bench.held.claim(CLAIM, 1.2) == (Moved(), None)


def test_it_is_said_for_a_while_that_it_was_here():
    bench = Bench()
    bench.claim()
    bench.held.sweep(2.5)
    assert bench.held.claim(CLAIM, 2.5) == (Moved(), None)
    bench.held.sweep(3.1)
    assert bench.held.claim(CLAIM, 3.1) == (None, None)
    assert len(bench.held) == 0


def test_looking_leaves_it_where_it_is():
    bench = Bench()
    for _ in range(2):
        answer, aborted = bench.held.claim(replace(CLAIM, take=False), 1.0)
        assert isinstance(answer, HandedOver) and aborted is None


def test_another_tenant_does_not_learn_that_it_exists():
    assert Bench().held.claim(replace(CLAIM, tenant="other"), 1.0) == (None, None)


def test_what_another_replica_computed_is_part_of_it():
    prior = (pack(BEGUN[:2]),)
    asked = replace(
        REQUEST,
        retention=replace(RETENTION, prior=prior),
        continuation=Continuation((1,), (5,), "a"),
    )
    bench = Bench(asked, [Accepted(2, [1, 5]), TokenDelta(0, 1, 2, "b", [6, 7]), FINISHED])
    running = bench.claim(claim=replace(CLAIM, take=False))
    bench.held.end(KEY, 1.0)
    ended = bench.claim()

    assert unpack(running.parts) == unpack(ended.parts) == [*BEGUN, FINISHED]
    assert ended.request == REQUEST
    assert ended.position == 3 and ended.ended


def test_time_that_passed_is_taken_from_the_deadline():
    assert Bench(replace(REQUEST, timeout_s=5.0)).claim(2.0).request.timeout_s == 3.0
    assert Bench(replace(REQUEST, timeout_s=5.0)).claim(9.0).request.timeout_s == 0.0


def test_without_its_router_it_goes_on_for_its_grace_time_and_stays_readable():
    bench = Bench()
    assert bench.held.router_silent(KEY, 3.0)
    assert bench.held.sweep(12.9) == []
    assert bench.held.sweep(13.0) == [KEY]

    answer = bench.claim(14.0)
    assert answer.ended and isinstance(answer.error, StreamCancelled) and not answer.settled


def test_without_a_grace_time_it_goes_on_to_its_end():
    bench = Bench(replace(REQUEST, retention=Retention("k")))
    bench.held.router_silent(KEY, 3.0)

    assert bench.held.sweep(10_000.0) == []


def test_a_router_that_was_silent_and_is_back_goes_on_with_it():
    bench = Bench()
    bench.held.router_silent(KEY, 3.0)
    bench.router.acknowledges()
    assert bench.held.sweep(5.0) == []
    bench.held.router_silent(KEY, 8.0)

    assert bench.held.sweep(17.9) == []
    assert bench.held.sweep(18.0) == [KEY]


@pytest.mark.parametrize("lives", [True, False])
def test_a_cancelled_call_ends_it_only_when_its_router_lives_on(lives):
    bench = Bench()
    bench.router.acknowledges()
    assert bench.held.left(KEY, 3.0)
    if lives:
        bench.router.acknowledges()

    answer, _ = bench.held.claim(replace(CLAIM, take=False), 3.4)
    assert (answer is None) == lives
    assert bench.held.sweep(3.5) == ([KEY] if lives else [])
    bench.held.end(KEY, 3.5)
    assert len(bench.held) == (0 if lives else 1)


def test_a_cancelled_call_of_a_router_that_was_silent_before_is_judged_by_what_comes_after():
    bench = Bench()
    bench.held.router_silent(KEY, 3.0)
    bench.router.acknowledges()
    assert bench.held.left(KEY, 4.0)

    assert bench.held.sweep(4.5) == []
    bench.router.acknowledges()
    assert bench.held.sweep(5.0) == [KEY]


def test_what_its_router_does_not_want_is_not_kept():
    bench = Bench()
    bench.held.unwanted(KEY)
    bench.held.unwanted(KEY)
    bench.held.end(KEY, 1.0)

    assert bench.held.claim(CLAIM, 1.0) == (None, None)
    assert not bench.held.left(KEY, 1.0) and not bench.held.router_silent(KEY, 1.0)


def test_a_newer_generation_of_the_stream_replaces_the_older_one():
    bench = Bench()
    newer = ("r2", 7, 1)

    assert bench.held.begin(REQUEST, newer, EventLog([Accepted(1, [1])]), 2.0) == KEY
    bench.held.end(KEY, 2.0)
    assert unpack(bench.claim().parts) == [Accepted(1, [1])]


def test_a_failure_is_its_routers_affair_while_that_lives():
    bench = Bench()
    bench.events.append(Failed(EngineFailed.code, "broken"))
    bench.held.end(KEY, 1.0)

    assert bench.held.claim(CLAIM, 1.0) == (None, None)


def test_a_failure_after_its_routers_death_is_kept():
    bench = Bench()
    bench.held.router_silent(KEY, 1.0)
    bench.events.append(Failed(EngineFailed.code, "broken"))
    bench.held.end(KEY, 2.0)
    answer = bench.claim(3.0)

    assert isinstance(answer.error, EngineFailed) and answer.ended
    assert unpack(answer.parts) == BEGUN


@pytest.mark.parametrize(("lives", "known"), [(True, True), (False, True), (False, False)])
def test_its_outcome_was_counted_if_its_router_lived_on_after_the_end(lives, known):
    bench = Bench()
    bench.router.known = known
    bench.events.append(FINISHED)
    bench.held.end(KEY, 1.0)
    if lives:
        bench.router.acknowledges()
    bench.held.sweep(2.0)

    assert bench.claim(30.0).settled is lives


def test_ended_ones_are_kept_within_bounds():
    bench = Bench(keep_s=60)
    bench.events.append(FINISHED)
    bench.held.end(KEY, 1.0)
    bench.held.sweep(60.9)
    assert len(bench.held) == 1
    bench.held.sweep(61.0)

    assert len(bench.held) == 0
    assert bench.held.claim(CLAIM, 61.0) == (None, None)
