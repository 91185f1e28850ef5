"""What a router replica counts, from the offer of a stream to its settlement."""

from __future__ import annotations

import pytest

from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import Priority
from serve_app.telemetry.reasons import HedgeOutcome, QueueOutcome, RefusalReason, RequeueReason, WasteReason
from tests.unit.telemetry.counted import MODEL, Counted


def test_ttft_runs_from_the_offer_to_the_first_token(counted: Counted) -> None:
    stream = counted.stream(now=10.0)
    stream.dispatched(12.0)
    stream.on_tokens(1, 13.5)
    stream.on_tokens(1, 20.0)

    assert counted("time_to_first_token_seconds_count") == 1
    assert counted("time_to_first_token_seconds_sum") == pytest.approx(3.5)
    assert stream.ttft_s == pytest.approx(3.5)


def test_inter_token_latency_is_observed_once_per_later_delivery(counted: Counted) -> None:
    stream = counted.stream()
    for now in (1.0, 1.02, 1.08):
        stream.on_tokens(3, now)

    assert counted("inter_token_latency_seconds_count") == 2
    assert counted("inter_token_latency_seconds_sum") == pytest.approx(0.08)
    assert counted("inter_token_latency_seconds_bucket", le="0.03") == 1
    assert counted("output_tokens_total") == 9


def test_choices_of_one_step_are_one_delivery(counted: Counted) -> None:
    stream = counted.stream(choices=2)
    for now in (1.0, 1.5):
        stream.on_tokens(1, now)
        stream.on_tokens(1, now)

    assert counted("inter_token_latency_seconds_count") == 1
    assert counted("inter_token_latency_seconds_sum") == pytest.approx(0.5)


def test_output_tokens_are_counted_while_the_stream_still_runs(counted: Counted) -> None:
    stream = counted.stream()
    stream.on_tokens(2, 1.0)

    assert counted("output_tokens_total") == 2


def test_time_per_output_token_leaves_the_first_token_out(counted: Counted) -> None:
    stream = counted.stream()
    for now in (5.0, 5.1, 5.2, 5.3):
        stream.on_tokens(1, now)
    stream.settled(RequestOutcome.COMPLETED, 6.0, output_tokens=4)

    assert counted("time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert counted("time_per_output_token_seconds_count") == 1


def test_time_per_output_token_is_that_of_one_choice(counted: Counted) -> None:
    stream = counted.stream(choices=2)
    for now in (5.0, 5.1, 5.2):
        stream.on_tokens(2, now)
    stream.settled(RequestOutcome.COMPLETED, 6.0, output_tokens=6)

    assert stream.tpot_s == pytest.approx(0.1)


def test_a_single_token_has_no_time_per_output_token(counted: Counted) -> None:
    stream = counted.stream()
    stream.on_tokens(1, 5.0)
    stream.settled(RequestOutcome.COMPLETED, 6.0, output_tokens=1)

    assert counted("time_per_output_token_seconds_count") == 0


def test_stream_duration_runs_to_the_end_and_counts_only_streams_with_output(counted: Counted) -> None:
    silent, speaking = counted.stream(), counted.stream(now=2.0)
    silent.settled(RequestOutcome.NO_ENGINE, 60.0)
    speaking.on_tokens(1, 3.0)
    speaking.settled(RequestOutcome.COMPLETED, 9.0)

    assert counted("stream_duration_seconds_count") == 1
    assert counted("stream_duration_seconds_sum") == pytest.approx(7.0)


@pytest.mark.parametrize("outcome", list(RequestOutcome))
def test_every_outcome_is_counted_once_and_settling_again_changes_nothing(
    counted: Counted, outcome: RequestOutcome
) -> None:
    stream = counted.stream()
    stream.settled(outcome, 1.0, cached_tokens=4)
    stream.settled(RequestOutcome.INTERNAL_ERROR, 2.0, cached_tokens=4)

    totals = {one: counted("requests_total", outcome=one) for one in RequestOutcome}
    assert totals == {one: float(one is outcome) for one in RequestOutcome}
    assert counted("cached_prompt_tokens_total") == 4


@pytest.mark.parametrize(
    ("outcome", "drops"),
    [
        (RequestOutcome.CANCELLED, 1),
        (RequestOutcome.CLIENT_TOO_SLOW, 1),
        (RequestOutcome.COMPLETED, 0),
        (RequestOutcome.ENGINE_FAILED, 0),
    ],
)
def test_a_connection_drop_is_the_clients_end_of_the_stream(
    counted: Counted, outcome: RequestOutcome, drops: int
) -> None:
    counted.stream().settled(outcome, 1.0)

    seen = [counted("connection_drops_total", reason=reason) or 0 for reason in ("cancelled", "client_too_slow")]
    assert sum(seen) == drops


def test_concurrent_streams_are_those_dispatched_and_not_settled(counted: Counted) -> None:
    first, second = counted.stream(), counted.stream()
    assert counted("concurrent_streams") == 0

    first.dispatched(1.0)
    first.dispatched(2.0)
    second.dispatched(1.0)
    assert counted("concurrent_streams") == 2

    second.requeued(RequeueReason.ENGINE_FULL)
    assert counted("concurrent_streams") == 1

    second.settled(RequestOutcome.CANCELLED, 3.0)
    first.settled(RequestOutcome.COMPLETED, 3.0)
    assert counted("concurrent_streams") == 0


def test_queue_wait_ends_at_the_dispatch_that_was_accepted(counted: Counted) -> None:
    stream = counted.stream(now=1.0)
    stream.dispatched(2.0)
    stream.requeued(RequeueReason.NOT_ACCEPTED)
    stream.dispatched(5.0)
    stream.accepted(prompt_tokens=100)
    stream.settled(RequestOutcome.COMPLETED, 50.0)

    assert counted("queue_wait_seconds_count", band="default") == 1
    assert counted("queue_wait_seconds_sum", band="default") == pytest.approx(4.0)
    assert counted("dispatch_requeues_total", reason="not_accepted") == 1
    assert stream.attempts == 2


def test_queue_wait_is_the_first_one_whatever_comes_later(counted: Counted) -> None:
    stream = counted.stream(now=1.0)
    stream.dispatched(2.0)
    stream.accepted(prompt_tokens=100)
    stream.requeued(RequeueReason.STALLED, wasted_tokens=100)
    stream.dispatched(60.0)
    stream.settled(RequestOutcome.COMPLETED, 70.0)

    assert stream.queue_wait_s == pytest.approx(1.0)
    assert counted("queue_wait_seconds_sum", band="default") == pytest.approx(1.0)


def test_queue_wait_of_a_request_that_gave_up_is_not_forgotten(counted: Counted) -> None:
    counted.stream(now=1.0).settled(RequestOutcome.DEADLINE_EXCEEDED, 31.0)

    assert counted("queue_wait_seconds_sum", band="default") == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("outcome", "reason", "waits"),
    [
        (RequestOutcome.QUEUE_FULL, RefusalReason.QUEUE_FULL, 0),
        (RequestOutcome.DEADLINE_UNATTAINABLE, RefusalReason.DEADLINE, 0),
        (RequestOutcome.DEADLINE_UNATTAINABLE, RefusalReason.OBJECTIVE, 0),
        (RequestOutcome.INVALID, None, 0),
        (RequestOutcome.QUEUE_FULL, RefusalReason.WAITED, 1),
        (RequestOutcome.QUEUE_FULL, RefusalReason.DISPLACED, 1),
        (RequestOutcome.NO_ENGINE, RefusalReason.NO_ENGINE, 1),
    ],
)
def test_queue_wait_leaves_out_requests_that_never_waited(
    counted: Counted, outcome: RequestOutcome, reason: RefusalReason | None, waits: int
) -> None:
    stream = counted.stream()
    stream.refused(reason)
    stream.settled(outcome, 30.0)

    assert counted("queue_wait_seconds_count", band="default") == waits


def test_queue_wait_and_its_end_are_counted_in_the_band_of_the_request(counted: Counted) -> None:
    stream = counted.stream(priority=Priority.BATCH)
    stream.dispatched(2.0)
    stream.accepted(prompt_tokens=10)
    stream.settled(RequestOutcome.CANCELLED, 3.0)

    assert counted("queue_wait_seconds_sum", band="batch") == pytest.approx(2.0)
    assert counted("queue_wait_seconds_count", band="default") == 0
    assert counted.ends_of_waits("batch") == {QueueOutcome.ADMITTED: 1}
    assert counted.ends_of_waits("default") == {}


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (RequestOutcome.QUEUE_FULL, QueueOutcome.REFUSED),
        (RequestOutcome.DEADLINE_UNATTAINABLE, QueueOutcome.REFUSED),
        (RequestOutcome.NO_ENGINE, QueueOutcome.REFUSED),
        (RequestOutcome.DEADLINE_EXCEEDED, QueueOutcome.EXPIRED),
        (RequestOutcome.CANCELLED, QueueOutcome.CANCELLED),
        (RequestOutcome.INVALID, QueueOutcome.FAILED),
        (RequestOutcome.ENGINE_FAILED, QueueOutcome.FAILED),
    ],
)
def test_a_wait_that_no_engine_ended_is_counted_by_what_did(
    counted: Counted, outcome: RequestOutcome, end: QueueOutcome
) -> None:
    counted.stream().settled(outcome, 1.0)

    assert counted.ends_of_waits("default") == {end: 1}


@pytest.mark.parametrize("reason", list(RefusalReason))
def test_a_refusal_is_counted_by_its_reason(counted: Counted, reason: RefusalReason) -> None:
    stream = counted.stream()
    stream.refused(reason)
    stream.settled(RequestOutcome.QUEUE_FULL, 1.0)

    totals = {one: counted("refusals_total", reason=one) for one in RefusalReason}
    assert totals == {one: float(one is reason) for one in RefusalReason}
    assert stream.refusal is reason


def test_who_found_no_other_engine_after_a_failure_failed_and_was_not_refused(counted: Counted) -> None:
    stream = counted.stream()
    stream.refused(RefusalReason.NO_ENGINE)
    stream.settled(RequestOutcome.ENGINE_FAILED, 1.0)

    assert counted("refusals_total", reason="no_engine") == 0
    assert stream.refusal is None


def test_a_dispatch_after_a_failure_is_a_retry_before_output_and_a_failover_after(counted: Counted) -> None:
    stream = counted.stream()
    stream.dispatched(1.0, "e1")
    stream.requeued(RequeueReason.FIRST_TOKEN_TIMEOUT, wasted_tokens=100)
    stream.dispatched(2.0, "e2")
    stream.requeued(RequeueReason.STALLED, wasted_tokens=120)
    stream.dispatched(3.0, "e1", replay=True)

    assert counted("retries_total", reason="first_token_timeout") == 1
    assert counted("failovers_total", reason="stalled") == 1
    assert counted("failovers_total", reason="first_token_timeout") == counted("retries_total", reason="stalled") == 0
    assert counted("wasted_tokens_total", reason="first_token_timeout") == 100
    assert counted("wasted_tokens_total", reason="stalled") == 120
    assert (stream.attempts, stream.retries, stream.failovers) == (3, 1, 1)
    assert (stream.repeated_tokens, stream.engines_tried) == (220, 2)


@pytest.mark.parametrize(
    ("outcome", "reason", "waste"),
    [
        (HedgeOutcome.WON, RequeueReason.OUTRUN, WasteReason.OUTRUN),
        (HedgeOutcome.LOST, RequeueReason.OUTRUN, WasteReason.OUTRUN),
        (HedgeOutcome.WON, RequeueReason.ENGINE_LOST, WasteReason.ENGINE_LOST),
        (HedgeOutcome.FAILED, RequeueReason.ENGINE_FAILED, WasteReason.ENGINE_FAILED),
    ],
)
def test_one_of_two_attempts_is_given_up_while_the_stream_stays_at_an_engine(
    counted: Counted, outcome: HedgeOutcome, reason: RequeueReason, waste: WasteReason
) -> None:
    stream = counted.stream()
    stream.dispatched(1.0, "e1")
    stream.hedged("e2")
    stream.hedge_settled(outcome, reason, 100)

    assert counted("hedges_total", outcome=outcome) == 1
    assert counted("dispatch_requeues_total", reason=reason) == 1
    assert counted.wasted_tokens() == {waste: 100}
    assert counted("concurrent_streams") == 1
    assert (stream.attempts, stream.hedges, stream.retries) == (2, 1, 0)
    assert (stream.repeated_tokens, stream.engines_tried) == (100, 2)


def test_both_attempts_of_a_stream_that_ends_before_a_token_were_not_given_up_for_each_other(counted: Counted) -> None:
    stream = counted.stream()
    stream.dispatched(1.0, "e1")
    stream.hedged("e2")
    stream.hedge_settled(HedgeOutcome.UNDECIDED, RequeueReason.OUTRUN, 0)
    assert counted("hedges_total", outcome="undecided") == 1
    assert counted("dispatch_requeues_total", reason="outrun") == 0


@pytest.mark.parametrize(
    "reason",
    [
        RequeueReason.ENGINE_FULL,
        RequeueReason.WRONG_REPLICA,
        RequeueReason.NOT_ACCEPTED,
        RequeueReason.ENGINE_LOST,
    ],
)
def test_a_dispatch_after_one_that_no_engine_began_repeats_nothing(counted: Counted, reason: RequeueReason) -> None:
    stream = counted.stream()
    stream.dispatched(1.0, "e1")
    stream.requeued(reason)
    stream.dispatched(2.0, "e2")

    assert counted("dispatch_requeues_total", reason=reason) == 1
    assert (stream.retries, stream.failovers, stream.repeated_tokens) == (0, 0, 0)


def test_a_failover_that_a_full_engine_sends_back_is_one_failover(counted: Counted) -> None:
    stream = counted.stream()
    stream.dispatched(1.0, "e1")
    stream.requeued(RequeueReason.ENGINE_LOST, wasted_tokens=50)
    stream.dispatched(2.0, "e2", replay=True)
    stream.requeued(RequeueReason.ENGINE_FULL)
    stream.dispatched(3.0, "e3", replay=True)

    assert counted("failovers_total", reason="engine_lost") == 1
    assert counted("wasted_tokens_total", reason="engine_lost") == 50
    assert (stream.failovers, stream.engines_tried) == (1, 3)


def test_work_that_is_not_repeated_after_all_is_not_counted_as_repeated(counted: Counted) -> None:
    stream = counted.stream()
    stream.dispatched(1.0, "e1")
    stream.on_tokens(7, 2.0)
    stream.requeued(RequeueReason.ENGINE_LOST, wasted_tokens=50)
    stream.settled(RequestOutcome.ENGINE_FAILED, 3.0, output_tokens=7)

    assert counted.wasted_tokens() == {WasteReason.UNFINISHED: 7}


@pytest.mark.parametrize(
    ("outcome", "wasted"),
    [
        (RequestOutcome.COMPLETED, {}),
        (RequestOutcome.CANCELLED, {WasteReason.CANCELLED: 9}),
        (RequestOutcome.CLIENT_TOO_SLOW, {WasteReason.CLIENT_TOO_SLOW: 9}),
        (RequestOutcome.DEADLINE_EXCEEDED, {WasteReason.DEADLINE_EXCEEDED: 9}),
        (RequestOutcome.STREAM_STALLED, {WasteReason.UNFINISHED: 9}),
        (RequestOutcome.NOT_CONTINUABLE, {WasteReason.UNFINISHED: 9}),
    ],
)
def test_output_is_wasted_when_nobody_read_the_stream_to_its_end(
    counted: Counted, outcome: RequestOutcome, wasted: dict[WasteReason, float]
) -> None:
    stream = counted.stream()
    stream.dispatched(1.0)
    stream.on_tokens(4, 2.0)
    stream.on_tokens(5, 3.0)
    stream.settled(outcome, 4.0, output_tokens=9)
    stream.settled(outcome, 4.0, output_tokens=9)

    assert counted.wasted_tokens() == wasted


def test_prompt_tokens_count_once_however_often_a_replica_accepts(counted: Counted) -> None:
    stream = counted.stream()
    for attempt_at in (1.0, 2.0):
        stream.dispatched(attempt_at)
        stream.accepted(prompt_tokens=100)

    assert counted("prompt_tokens_total") == 100
    assert counted("queue_wait_seconds_count", band="default") == 1


def test_requests_that_were_never_offered_count_under_their_model_or_as_unknown(counted: Counted) -> None:
    counted.metrics.not_offered(RequestOutcome.INVALID, MODEL)
    counted.metrics.not_offered(RequestOutcome.INVALID, "no-such-model")
    counted.metrics.not_offered(RequestOutcome.INVALID)

    assert counted("requests_total", outcome="invalid") == 1
    assert counted("requests_total", outcome="invalid", model="unknown") == 2
    assert counted("requests_total", outcome="invalid", model="no-such-model") is None
