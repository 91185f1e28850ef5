"""What the watchdog finds wrong with an attempt, and when it looks again."""

from __future__ import annotations

import pytest

from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.resilience.stream_timeouts import StreamTimeouts
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.engine_pool import EngineView
from serve_app.router.decisions.messages import Offer
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.router.decisions.watchdog import Finding, Watchdog

CONFIG = RouterConfig.model_validate(
    {
        "accept_timeout_s": 2.0,
        "dispatch_timeout_s": 30.0,
        "timeouts": {
            "first_token_floor_s": 10.0,
            "first_token_cold_floor_s": 60.0,
            "slowest_prefill_tokens_s": 100.0,
            "first_token_ceiling_s": 200.0,
            "stall_floor_s": 5.0,
            "stall_ceiling_s": 50.0,
        },
        "failover": {"drain_handover_s": 20.0},
    }
)


def attempt(*, accepted: bool = True, first_token_at: float | None = None, **fields: object) -> StreamLedger:
    """Dispatched at clock reading 100."""
    offer = Offer(1, "m", 200, 16, None)
    stream = StreamLedger(
        offer, 16, 100.0, prompt_tokens=200, engine_id="a", dispatched_at=100.0, first_dispatched_at=100.0
    )
    stream.accepted = accepted
    stream.first_token_at = first_token_at
    stream.last_token_at = first_token_at or 0.0
    for name, value in fields.items():
        setattr(stream, name, value)
    return stream


def replica(
    stepped_at: float = 100.0, running: int = 1, warm: bool = True, leaving_since: float | None = None
) -> EngineView:
    load = EngineLoad(steps=5, generated_tokens=100 if warm else 0, running=running)
    return EngineView(EngineStatus("a", "m", load, 8, 0, 1, True, 2048), stepped_at, leaving_since=leaving_since)


def look(stream: StreamLedger, view: EngineView, now: float) -> tuple[Finding | None, float]:
    return Watchdog(CONFIG, StreamTimeouts(CONFIG.timeouts)).look(stream, view, now)


def found(stream: StreamLedger, view: EngineView, now: float) -> Finding | None:
    return look(stream, view, now)[0]


# --- the first answer


def test_unanswered_dispatch_is_found_after_the_accept_timeout():
    assert found(attempt(accepted=False), replica(), 101.9) is None
    assert found(attempt(accepted=False), replica(), 102.0) is Finding.NOT_ACCEPTED


def test_tries_that_nobody_answers_are_found_over_all_of_them():
    second = attempt(accepted=False, dispatched_at=129.0)
    assert found(second, replica(), 129.9) is None
    assert found(second, replica(), 130.0) is Finding.NOT_DISPATCHED


def test_unanswered_dispatch_is_looked_at_with_every_tick():
    assert look(attempt(accepted=False), replica(), 100.5)[1] == 100.5


# --- the first token


@pytest.mark.parametrize(("warm", "timeout_s"), [(True, 12.0), (False, 62.0)])
def test_first_token_is_overdue_after_the_floor_and_the_prompts_time(warm, timeout_s):
    stream, view = attempt(), replica(warm=warm)
    assert found(stream, view, 99.9 + timeout_s) is None
    assert found(stream, view, 100.0 + timeout_s) is Finding.NO_FIRST_TOKEN


def test_continuation_is_given_the_time_of_all_that_it_computes_again():
    stream = attempt(output_tokens=300)
    assert found(stream, replica(), 114.9) is None
    assert found(stream, replica(), 115.0) is Finding.NO_FIRST_TOKEN


def test_first_token_is_counted_from_this_attempts_dispatch():
    assert found(attempt(dispatched_at=150.0), replica(), 161.9) is None


def test_stream_without_a_first_token_is_stuck_when_the_engine_has_stood_still_for_the_ceiling():
    stream = attempt()
    assert found(stream, replica(stepped_at=100.0), 299.9) is Finding.NO_FIRST_TOKEN
    assert found(stream, replica(stepped_at=100.1), 300.0) is Finding.NO_FIRST_TOKEN
    assert found(stream, replica(stepped_at=100.0), 300.0) is Finding.STUCK


def test_engine_that_idled_before_the_dispatch_does_not_make_a_stream_stuck():
    assert found(attempt(), replica(stepped_at=-1000.0), 105.0) is None


def test_stream_that_waits_for_its_first_token_is_looked_at_every_second():
    """Timeouts are learned, and may shrink."""
    assert look(attempt(), replica(), 103.0)[1] <= 104.0


# --- between tokens


def test_silent_stream_of_an_engine_that_stands_still_has_stalled():
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=110.0), 114.9) is None
    assert found(stream, replica(stepped_at=110.0), 115.0) is Finding.STALLED


def test_silence_is_counted_from_the_last_token():
    stream = attempt(first_token_at=110.0, last_token_at=120.0)
    assert found(stream, replica(stepped_at=110.0), 124.9) is None
    assert found(stream, replica(stepped_at=110.0), 125.0) is Finding.STALLED


def test_silent_stream_of_an_engine_that_steps_on_is_left_alone():
    """It is preempted: computing it elsewhere would cost what it waits for."""
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=118.0), 120.0) is None
    assert found(stream, replica(stepped_at=157.6), 159.9) is None


def test_engine_that_has_not_stepped_for_half_of_the_stall_time_stands_still():
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=117.6), 120.0) is None
    assert found(stream, replica(stepped_at=117.4), 120.0) is Finding.STALLED


def test_engine_that_runs_nothing_does_not_count_as_stepping_on():
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=119.9, running=0), 120.0) is Finding.STALLED


def test_preempted_stream_has_stalled_after_the_ceiling():
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=159.9), 159.9) is None
    assert found(stream, replica(stepped_at=160.0), 160.0) is Finding.STALLED


def test_stream_is_stuck_when_it_and_its_engine_were_silent_for_the_ceiling():
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=110.0), 159.9) is Finding.STALLED
    assert found(stream, replica(stepped_at=110.1), 160.0) is Finding.STALLED
    assert found(stream, replica(stepped_at=110.0), 160.0) is Finding.STUCK


def test_running_stream_is_looked_at_when_it_could_have_stalled_or_its_replica_left():
    stream = attempt(first_token_at=110.0)
    assert look(stream, replica(), 110.0)[1] == 112.0  # a tenth of the hand-over time
    assert look(stream, replica(leaving_since=109.0), 110.0)[1] == 115.0


# --- the replica leaves


def test_stream_of_a_leaving_replica_is_handed_over_after_the_hand_over_time():
    stream = attempt(first_token_at=110.0, last_token_at=128.0)
    view = replica(leaving_since=110.0)
    assert found(stream, view, 129.9) is None
    assert look(stream, view, 129.0)[1] <= 130.0
    assert found(stream, view, 130.0) is Finding.DRAINING


def test_stream_that_waits_for_its_first_token_is_handed_over_too():
    assert found(attempt(dispatched_at=128.0), replica(leaving_since=110.0), 130.0) is Finding.DRAINING


def test_unanswered_dispatch_to_a_leaving_replica_is_unanswered_first():
    stream = attempt(accepted=False, dispatched_at=129.0, first_dispatched_at=129.0)
    assert found(stream, replica(leaving_since=100.0), 130.0) is None
    assert found(stream, replica(leaving_since=100.0), 131.0) is Finding.NOT_ACCEPTED


def test_stall_on_a_leaving_replica_is_found_as_a_stall():
    stream = attempt(first_token_at=110.0)
    assert found(stream, replica(stepped_at=110.0, leaving_since=100.0), 125.0) is Finding.STALLED


@pytest.mark.parametrize("leaving_since", [None, 105.0])
@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("first_token_at", [None, 110.0])
def test_whatever_is_found_was_looked_for_in_time(leaving_since, accepted, first_token_at):
    """`look` at the times that it names itself finds what it would find when asked all the time."""
    stream = attempt(accepted=accepted, first_token_at=first_token_at)
    view = replica(leaving_since=leaving_since)
    check_at = began = 110.0
    while found(stream, view, began) is None:
        if began >= check_at:
            check_at = look(stream, view, began)[1]
            assert check_at >= began
        began = round(began + 0.1, 1)
    assert check_at <= began
