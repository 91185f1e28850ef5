"""What the router charges, learns and counts while streams come and go."""

from __future__ import annotations

import pytest

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Priority
from tests.unit.router.decisions.driven_core import MODEL, DrivenCore

FIFTY = {"bands": {band: {"requests": 50} for band in ("interactive", "default", "batch")}}


def order_of_service(core: DrivenCore, *waiting: int) -> list[int]:
    """In which order they start as places become free, one at a time; each ends without any output."""
    served: list[int] = []
    while set(waiting) - set(served):
        [running] = core.running
        core.end(running)
        served += [stream_id for stream_id in core.running if stream_id in waiting]
    return served


# --- turns


def test_newcomer_does_not_overtake_those_who_wait():
    core = DrivenCore("a", capacity=1)
    core.offer(1)
    core.refuse(1)
    core.offer(2)

    core.report("a")

    assert core.running.keys() == {1}


def test_newcomer_does_not_take_a_place_that_came_free_unnoticed():
    core = DrivenCore("a", capacity=1)
    core.offer(1)
    core.refuse(1)
    core.view("a").refused = False

    core.offer(2)

    assert core.running.keys() == {1}


def test_urgent_band_is_served_first():
    core = DrivenCore("a", capacity=1)
    core.offer(1)
    core.offer(2, priority=Priority.BATCH)
    core.offer(3)
    core.offer(4, priority=Priority.INTERACTIVE)

    assert order_of_service(core, 2, 3, 4) == [4, 3, 2]


def test_stream_dispatched_at_once_is_charged_like_one_that_waited():
    core = DrivenCore("a", "b", capacity=1)
    charges: list[float] = []
    core.model.queue.pass_through = lambda waiting: charges.append(waiting.cost)  # type: ignore[method-assign]  # a spy

    core.offer(1, tokens=500)

    assert charges == [500 + 2 * 16]
    assert core.model.streams[1].charged == 500 + 2 * 16


@pytest.mark.parametrize("waits", [True, False])
def test_tenant_is_charged_for_what_it_really_used(waits):
    core = DrivenCore("a", capacity=1)
    corrections: list[tuple[str, float, Priority]] = []
    core.model.queue.correct = lambda *told: corrections.append(told)  # type: ignore[method-assign]  # a spy
    if waits:
        core.offer(9)
    core.offer(1, tenant="x", priority=Priority.BATCH)
    if waits:
        core.end(9, completed=False)
    core.accept(1, prompt_tokens=30)
    core.tokens(1, 7)

    core.end(1)

    assert corrections[-1] == ("x", (30 + 2 * 7) - (10 + 2 * 16), Priority.BATCH)
    assert len(corrections) == 1 + waits


def test_stream_that_was_never_dispatched_is_not_charged():
    core = DrivenCore("a", capacity=1)
    core.begin(1)
    core.offer(2)
    corrections: list[object] = []
    core.model.queue.correct = lambda *told: corrections.append(told)  # type: ignore[method-assign]  # a spy

    core.end(2, completed=False)

    assert corrections == []


def test_tenant_does_not_pay_for_a_prompt_that_no_replica_took():
    core = DrivenCore("a")
    core.offer(1, tokens=500, tenant="x")
    corrections: list[tuple[str, float, Priority]] = []
    core.model.queue.correct = lambda *told: corrections.append(told)  # type: ignore[method-assign]  # a spy

    core.fail_attempt(1, InvalidRequest("too long"))

    assert corrections == [("x", -(500 + 2 * 16.0), Priority.DEFAULT)]


def test_tenant_pays_for_a_prompt_that_was_computed_before_its_replica_was_lost():
    core = DrivenCore("a", "b")
    corrections: list[tuple[str, float, Priority]] = []
    core.model.queue.correct = lambda *told: corrections.append(told)  # type: ignore[method-assign]  # a spy
    core.lose(core.begin(1, received=0))
    assert core.engine_of(1) is not None

    core.end(1, completed=False)

    assert corrections == [("anonymous", 10 - (10 + 2 * 16.0), Priority.DEFAULT)]


def test_repeat_is_not_charged_again():
    core = DrivenCore("a", "b")
    core.begin(1, received=5)
    charged = core.model.streams[1].charged

    core.lose(core.running[1].engine_id)

    assert core.model.streams[1].charged == charged


# --- expectations


def test_expected_output_is_the_smaller_of_the_limit_and_what_was_learned():
    core = DrivenCore("a", capacity=8, expected_output_tokens=100)
    for stream_id, limit in ((1, 20), (2, 500), (3, None)):
        core.offer(stream_id, max_tokens=limit)

    assert [core.model.streams[stream_id].expected_output for stream_id in (1, 2, 3)] == [20, 100, 100]


@pytest.mark.parametrize(("completed", "direction"), [(True, 1), (False, 0)])
def test_expected_output_is_learned_from_what_was_completed(completed, direction):
    core = DrivenCore("a", expected_output_tokens=100)
    core.begin(1, received=1000, max_tokens=None)

    core.end(1, completed)
    core.offer(2, max_tokens=None)

    assert core.model.streams[2].expected_output == 100 + direction * 45


def test_output_is_counted_over_all_attempts_when_it_is_learned():
    core = DrivenCore("a", "b", expected_output_tokens=100)
    core.begin(1, received=600, max_tokens=None)
    core.lose(core.running[1].engine_id)
    core.accept(1)
    core.tokens(1, 400)

    core.end(1)
    core.report("a")
    core.report("b")
    core.offer(2, max_tokens=None)

    assert core.model.streams[2].expected_output == 145


# --- the rate at which work leaves


def busy(core: DrivenCore, seconds: int, tokens: int) -> None:
    for _ in range(seconds):
        core.now += 1.0
        core.report("a", stepped=True)
        core.tokens(1, tokens)
        core.tick(core.now)


def test_rate_is_learned_from_output_while_others_wait():
    core = DrivenCore("a", capacity=1)
    core.begin(1, received=0, max_tokens=10_000)
    core.offer(2)
    busy(core, 30, 50)

    assert core.model.drain.rate(core.now) == pytest.approx(50.0, rel=0.1)


def test_rate_counts_prompts_when_their_first_token_comes():
    core = DrivenCore("a", capacity=1)
    core.begin(1, received=0, max_tokens=10_000, tokens=2000)
    core.offer(2)
    core.now = 2.0
    core.tokens(1)

    assert core.model.drain.rate(core.now) == pytest.approx(1000.0, rel=0.2)


def test_rate_is_not_learned_while_nobody_waits():
    core = DrivenCore("a", capacity=1)
    core.begin(1, received=0, max_tokens=10_000)
    busy(core, 30, 50)

    assert core.model.drain.rate(core.now) is None


def test_time_without_an_engine_does_not_lower_the_rate():
    core = DrivenCore("a", capacity=1)
    core.begin(1, received=0, max_tokens=10_000)
    core.offer(2)
    busy(core, 30, 50)
    before = core.model.drain.rate(core.now)
    assert before is not None

    core.lose("a")
    core.tick(core.now + 20.0)

    assert core.model.drain.rate(core.now) == pytest.approx(before, rel=0.05)


def test_places_of_a_band_are_told_with_the_time_until_they_are_free():
    core = DrivenCore("a", capacity=1, admission=FIFTY)
    core.begin(1, received=0, max_tokens=10_000)
    assert core.core.rate_limits(MODEL, Priority.DEFAULT, 0.0).remaining_requests == 50
    core.offer(2, tokens=1000, max_tokens=1)
    busy(core, 30, 100)

    limits = core.core.rate_limits(MODEL, Priority.DEFAULT, core.now)

    assert (limits.limit_requests, limits.remaining_requests) == (50, 49)
    assert limits.reset_requests_s == pytest.approx(10.0, rel=0.1)


# --- what is waiting


def test_waiting_counts_queued_in_line_and_parked():
    bands = {band: {"requests": 1} for band in ("interactive", "default", "batch")}
    core = DrivenCore("a", capacity=1, admission={"bands": bands, "when_full": "wait"}, retry={"base_delay_s": 9.0})
    core.begin(1, received=0)
    core.fail_attempt(1)
    core.offer(2)
    core.offer(3)
    core.offer(4)

    assert core.engine_of(2) == "a"
    assert core.model.waiting.count == 3
    assert core.core.queue_position(1) is None
    assert core.core.queue_position(3) == 0


# --- what is learned of replicas


def test_first_tokens_of_cold_replicas_do_not_stretch_the_timeout():
    core = DrivenCore(capacity=1, timeouts={"min_samples": 1})
    core.list_replicas("a")
    core.report("a", generated_tokens=0)
    core.begin(1, received=0)
    core.now = 30.0
    core.tokens(1)
    core.end(1)
    assert core.model.attempts.timeouts.first_token_s(10, False, core.now) < 11.0

    core.report("a")
    core.begin(2, received=0)
    core.now = 60.0
    core.tokens(2)

    assert core.model.attempts.timeouts.first_token_s(10, False, core.now) == pytest.approx(90.0)


def test_longest_silence_of_an_attempt_is_learned_once():
    core = DrivenCore("a", timeouts={"min_samples": 2})
    core.begin(1)
    core.now = 4.0
    core.tokens(1)
    core.lose("a")
    core.report("a")
    core.accept(1)
    core.tokens(1)
    core.end(1)

    assert core.model.attempts.timeouts.stall_s(core.now) == 5.0


def test_overloaded_replica_is_not_taken_for_a_failing_one():
    core = DrivenCore("a", "b", replicas={"breaker": {"consecutive_failures": 1}})
    core.offer(1)
    core.refuse(1)

    assert {s.breaker for s in core.model.policies.snapshot(0.0)} == {"closed"}


def test_first_token_lets_a_new_replica_ramp_up():
    core = DrivenCore(capacity=64)
    core.list_replicas("a", "b")
    core.report("a", capacity=64)
    core.report("b", generated_tokens=0, capacity=64)

    def ramp() -> float:
        return {s.engine_id: s.ramp_fraction for s in core.model.policies.snapshot(core.now)}["b"]

    before = ramp()
    for stream_id in range(200):
        core.now += 0.2
        core.report("a", capacity=64, stepped=True)
        core.report("b", generated_tokens=10_000, capacity=64, stepped=True)
        core.tick(core.now)
        core.begin(stream_id)
        core.end(stream_id)

    assert before < 0.5
    assert ramp() == 1.0


def test_policies_are_told_of_first_tokens_when_they_come():
    core = DrivenCore("a")
    told: list[tuple[object, ...]] = []
    core.model.policies.first_token = lambda *args: told.append(args)  # type: ignore[method-assign]  # a spy
    core.begin(1, received=0)
    core.now = 3.0

    core.tokens(1, 2)
    core.tokens(1, 2)

    assert told == [(core.model.streams[1].permit, 3.0, 10, 3.0)]
