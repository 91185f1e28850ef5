from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.core.errors import (
    EngineFailed,
    EngineFull,
    EngineLost,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotContinuable,
    QueueFull,
)
from serve_app.core.events import Accepted, Failed, TokenDelta
from serve_app.core.request import Continuation, GenerationRequest, Priority, Prompt, Sampling
from serve_app.core.served_models import ServedModels, Target
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.messages import Dispatch, Ended, Fail, Tick, Withdraw
from serve_app.router.lifecycle import RouterLifecycle
from serve_app.router.token_estimate import TokenEstimate
from serve_app.telemetry.config import TelemetryConfig
from serve_app.telemetry.logging import RequestLog
from serve_app.telemetry.reasons import RequeueReason
from serve_app.token_channel.endpoint import LiveStreams
from tests.support.fake_engines import ENDPOINT, status
from tests.support.settling import settle
from tests.unit.router.lifecycle_bench import ANSWER, Bench, read_all


async def test_request_is_dispatched_streamed_and_settled(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER))
    call.result.set_result(len(ANSWER))

    assert await read_all(stream) == ANSWER
    await stream.aclose()
    await settle()
    assert not call.cancelled
    assert bench.sample("serve_app_requests_total", outcome="completed") == 1
    assert bench.sample("serve_app_output_tokens_total") == 2
    assert bench.sample("serve_app_prompt_tokens_total") == 3
    assert bench.sample("serve_app_concurrent_streams") == 0


@pytest.mark.parametrize("broken", ["estimate", "core"])
async def test_an_open_that_fails_leaves_no_stream_behind(
    bench: Bench, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a fault of ours")

    if broken == "estimate":
        monkeypatch.setattr(TokenEstimate, "tokens", fail)
    else:
        monkeypatch.setattr(bench.router.core.model("m").policies, "dispatched", fail)
    bench.engine()
    with pytest.raises(RuntimeError):
        bench.open()

    assert not bench.router._streams
    assert bench.sample("serve_app_concurrent_streams") == 0


async def test_an_engine_call_that_fails_unexpectedly_ends_its_stream_at_once_and_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.engine()
    stream = bench.open()
    (await bench.call()).result.set_exception(RuntimeError("a fault of ours"))

    with pytest.raises(InternalError):
        await asyncio.wait_for(stream.next(), 1.0)
    assert "a background task of the router failed" in caplog.text
    assert "a fault of ours" in caplog.text


async def test_text_of_an_engine_without_token_ids_is_never_delivered_twice(bench):
    bench.router.replicas_listed("m", frozenset({"e1", "e2"}))
    bench.router.on_status(status("e1", capacity=4))
    stream = bench.open()
    call = await bench.call()
    bench.router.on_status(status("e2", capacity=4))
    bench.router.on_events(call.engine_id, call.wire(0, Accepted(3), TokenDelta(0, 0, 1, "Hello")))
    assert [event.text for event in await stream.next() if isinstance(event, TokenDelta)] == ["Hello"]

    bench.router.replica_died(call.engine_id)

    with pytest.raises(NotContinuable, match="its token ids are not known"):
        await stream.next()
    await settle()
    assert len(bench.caller.calls) == 1


async def test_an_engine_may_say_when_to_come_back(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, Failed("queue_full", "Slow down.", None, 7.5)))
    with pytest.raises(QueueFull) as raised:
        await stream.next()
    assert raised.value.retry_after_s == 7.5


async def test_unknown_model_is_refused_at_once_and_counted(bench):
    with pytest.raises(ModelNotFound, match="Served: m"):
        bench.router.open(GenerationRequest("r", "other", Prompt(text="x")))
    assert bench.sample("serve_app_requests_total", model="unknown", outcome="invalid") == 1


async def test_an_alias_goes_to_the_pool_of_its_model_under_the_name_that_the_client_wrote() -> None:
    bench = Bench()
    served = ServedModels({"m": ("Engine-m",)}, {"m": Target("m"), "gpt-4o-mini": Target("m")})
    bench.router = RouterLifecycle(
        served,
        7,
        RouterConfig(),
        bench.caller,
        bench.metrics,
        RequestLog(TelemetryConfig(request_log=False)),
        clock=lambda: bench.now,
    )
    await bench.router.start(ENDPOINT)
    bench.router.replicas_listed("m", frozenset({"e1"}), "Engine-m")
    bench.router.on_status(status("e1"))
    stream = bench.router.open(GenerationRequest("r", "gpt-4o-mini", Prompt(text="hi")))
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER))

    assert await read_all(stream) == ANSWER
    assert (call.request.model, call.group) == ("gpt-4o-mini", "Engine-m")
    assert bench.sample("serve_app_requests_total", model="m", outcome="completed") == 1
    assert [(card.id, card.created, card.max_model_len) for card in bench.router.models()] == [
        ("m", 7, 4096),
        ("gpt-4o-mini", 7, 4096),
    ]
    assert bench.router.rate_limits("gpt-4o-mini", Priority.DEFAULT) == bench.router.rate_limits("m", Priority.DEFAULT)
    await bench.router.close()


async def test_a_sleeping_pool_is_woken_at_its_deployments(bench: Bench) -> None:
    bench.open()
    bench.router.conductor.tell(Tick())

    assert set(bench.caller.woken) == {"m"}


async def test_request_that_could_not_be_read_is_counted(bench):
    bench.router.turned_away("r", "tenant", InvalidRequest("not JSON"))
    assert bench.sample("serve_app_requests_total", model="unknown", outcome="invalid") == 1


async def test_closing_a_stream_cancels_the_engine_call(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER[:2]))
    await stream.aclose()
    await settle()

    assert call.cancelled
    assert bench.sample("serve_app_requests_total", outcome="cancelled") == 1
    assert bench.sample("serve_app_connection_drops_total", reason="cancelled") == 1


async def test_refusal_reaches_the_reader(bench):
    refusing = Bench(admission={"bands": {"default": {"requests": 0}}})
    stream = refusing.open()

    with pytest.raises(QueueFull):
        await stream.next()
    assert refusing.sample("serve_app_requests_total", outcome="queue_full") == 1
    assert refusing.sample("serve_app_refusals_total", reason="queue_full") == 1
    assert refusing.sample("serve_app_queue_outcomes_total", band="default", outcome="refused") == 1


async def test_full_engine_sends_the_request_to_wait_and_it_is_tried_again(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    call.result.set_exception(EngineFull("full"))
    await settle()
    assert stream.queue_position == 0

    bench.router.on_status(status("e1"))
    second = await bench.call(1)
    assert second.reply_to.attempt == 2
    bench.router.on_events("e1", call.wire(0, TokenDelta(0, 0, 1, "stale", [9])))
    bench.router.on_events("e1", second.wire(0, *ANSWER))

    assert await read_all(stream) == ANSWER
    assert bench.sample("serve_app_dispatch_requeues_total", reason="engine_full") == 1


async def test_another_engine_goes_on_with_a_stream_whose_engine_died(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER[:2]))
    call.result.set_exception(EngineLost("gone"))
    assert await stream.next() == ANSWER[:2]
    await settle()
    bench.engine("e2")
    second = await bench.call(1)
    assert second.request.continuation == Continuation((1, 2, 3), (5,), "Hel")
    bench.router.on_events("e1", call.wire(2, *ANSWER[2:]))
    bench.router.on_events("e2", second.wire(0, ANSWER[0], *ANSWER[2:]))

    assert await read_all(stream) == ANSWER[2:]
    assert bench.sample("serve_app_requests_total", outcome="completed") == 1
    assert bench.sample("serve_app_dispatch_requeues_total", reason="engine_lost") == 1
    assert bench.sample("serve_app_failovers_total", reason="engine_lost") == 1
    assert bench.sample("serve_app_wasted_tokens_total", reason="engine_lost") == 4
    assert bench.sample("serve_app_output_tokens_total") == 2
    assert bench.sample("serve_app_prompt_tokens_total") == 3


async def test_death_of_the_engine_ends_a_stream_of_several_choices_that_has_begun(bench):
    bench.engine()
    stream = bench.router.open(GenerationRequest("r", "m", Prompt(text="hi"), Sampling(n=2)))
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER[:2]))
    call.result.set_exception(EngineLost("gone"))
    assert await stream.next() == ANSWER[:2]

    with pytest.raises(NotContinuable):
        await stream.next()
    assert bench.sample("serve_app_requests_total", outcome="not_continuable") == 1


async def test_engine_is_told_the_time_that_is_left(bench):
    bench.router.open(GenerationRequest("r", "m", Prompt(text="hi"), timeout_s=10.0))
    bench.now += 4.0
    bench.engine()

    assert (await bench.call()).request.timeout_s == pytest.approx(6.0)


async def test_death_before_the_engine_answered_is_tried_again(bench):
    bench.engine()
    stream = bench.open()
    (await bench.call()).result.set_exception(EngineLost("gone"))
    await settle()
    bench.engine("e2")
    second = await bench.call(1)
    bench.router.on_events("e2", second.wire(0, *ANSWER))

    assert await read_all(stream) == ANSWER


async def test_silent_channel_moves_the_stream_and_cancels_the_call(bench):
    bench.engine()
    bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, *ANSWER[:2]))
    bench.router.on_silent("e1")
    await settle()
    assert call.cancelled
    assert bench.router.silences == 1

    bench.engine("e2")
    assert (await bench.call(1)).request.continuation is not None


async def test_engine_error_event_becomes_the_readers_exception(bench):
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    bench.router.on_events("e1", call.wire(0, Failed("invalid_value", "bad", "messages")))

    with pytest.raises(InvalidRequest, match="bad"):
        await stream.next()
    assert bench.sample("serve_app_requests_total", outcome="invalid") == 1


async def test_failed_call_is_tried_again_and_ends_the_stream_when_it_was_tried_enough():
    bench = Bench(retry={"max_retries": 1, "base_delay_s": 0.0})
    await bench.router.start(ENDPOINT)
    bench.engine()
    stream = bench.open()
    (await bench.call()).result.set_exception(EngineFailed("broken"))
    (await bench.call(1)).result.set_exception(EngineFailed("broken again"))

    with pytest.raises(EngineFailed, match="broken again"):
        await stream.next()
    assert bench.sample("serve_app_retries_total", reason="engine_failed") == 1
    await bench.router.close()


async def test_listed_replicas_are_attached_and_again_until_they_report(bench):
    bench.caller.attach_error = EngineLost("not yet")
    bench.router.replicas_listed("m", frozenset({"e1"}))
    await settle()
    bench.router.replicas_listed("m", frozenset({"e1"}))
    await settle()
    assert bench.caller.attached == ["e1", "e1"]

    bench.router.on_status(status("e1"))
    bench.router.replicas_listed("m", frozenset({"e1"}))
    await settle()
    assert bench.caller.attached == ["e1", "e1"]


async def test_waiting_without_replicas_wakes_the_model(bench):
    bench.open()
    assert bench.caller.woken == ["m"]


async def test_model_card_learns_the_context_window(bench):
    assert bench.router.models()[0].max_model_len is None
    bench.engine()
    assert bench.router.models()[0].max_model_len == 4096


async def test_tick_wakes_readers_whose_time_is_over(bench):
    stream = bench.open()
    reader = asyncio.create_task(stream.next(timeout_s=5.0))
    await settle()
    bench.now += 6.0

    assert await asyncio.wait_for(reader, 2.0) == ()


async def test_what_one_command_brings_about_is_ordered_behind_the_commands_before(bench, monkeypatch):
    bench.engine()
    first, second = bench.open(), bench.open()
    old_call = await bench.call(1)
    script = {
        Tick: [Fail(first.stream_id, EngineLost("x")), Withdraw(second.stream_id, 1, RequeueReason.NOT_ACCEPTED)],
        Ended: [Dispatch(second.stream_id, 2, "e1")],
    }
    monkeypatch.setattr(bench.router.core, "handle", lambda happened, now: script.pop(type(happened), []))
    bench.router.conductor.tell(Tick())
    new_call = await bench.call(2)

    assert old_call.cancelled
    assert new_call.reply_to.attempt == 2
    assert not new_call.cancelled


async def test_engine_that_runs_more_than_is_known_is_told_what_is_wanted(bench):
    bench.engine()
    gone, kept = bench.open(), bench.open()
    await settle()
    await gone.aclose()
    bench.router.on_status(replace(status("e1"), generations=1))
    bench.router._look_after_engines()
    assert bench.caller.kept == []

    bench.router.on_status(replace(status("e1"), generations=2))
    bench.router._look_after_engines()
    await settle()

    [(engine_id, live)] = bench.caller.kept
    assert (engine_id, live) == ("e1", LiveStreams("router", kept.stream_id, {kept.stream_id: 1}))


async def test_closing_the_router_ends_streams_and_calls():
    bench = Bench()
    await bench.router.start(ENDPOINT)
    bench.engine()
    stream = bench.open()
    call = await bench.call()
    await bench.router.close()

    with pytest.raises(EngineLost):
        await stream.next()
    assert call.cancelled
    assert bench.caller.closed


async def test_rate_limits_are_the_places_that_the_queue_still_has(bench: Bench) -> None:
    free = bench.router.rate_limits("m", Priority.DEFAULT)
    assert (free.limit_requests, free.remaining_requests) == (256, 256)
    assert (free.limit_tokens, free.remaining_tokens, free.reset_requests_s) == (400_000, 400_000, 0.0)
    bench.open("some text that waits")
    taken = bench.router.rate_limits("m", Priority.DEFAULT)
    assert taken.remaining_requests == 255
    assert taken.remaining_tokens < 400_000
    assert taken.reset_requests_s > 0.0


async def test_rate_limits_of_an_unknown_model_are_refused(bench: Bench) -> None:
    with pytest.raises(ModelNotFound):
        bench.router.rate_limits("other", Priority.DEFAULT)


async def test_gauges_show_waiting_requests_by_band_and_what_is_made_of_each_engine(bench: Bench) -> None:
    bench.engine(capacity=1)
    bench.open()
    for priority in (Priority.DEFAULT, Priority.BATCH, Priority.BATCH):
        bench.router.open(GenerationRequest("r", "m", Prompt(text="hi"), priority=priority))
    bench.router.publish_metrics()

    waiting = [bench.sample("serve_app_queue_depth", band=priority) for priority in Priority]
    assert waiting == [0, 1, 2]
    assert bench.sample("serve_app_queue_tokens", band="batch") == 2 * bench.sample(
        "serve_app_queue_tokens", band="default"
    )
    names = ("ready", "limit", "in_flight", "breaker_state", "ejected")
    assert [bench.sample(f"serve_app_engine_{name}", engine="e1") for name in names] == [1, 1, 1, 0, 0]
    assert bench.sample("serve_app_retry_budget_left_tokens") > 0
    assert bench.sample("serve_app_retry_budget_used_tokens") == 0


async def test_requests_that_wait_for_another_try_count_as_waiting(bench: Bench) -> None:
    bench.engine()
    bench.router.open(GenerationRequest("r", "m", Prompt(text="hi"), priority=Priority.INTERACTIVE))
    (await bench.call()).result.set_exception(EngineFailed("broken"))
    await settle()
    bench.router.publish_metrics()

    assert bench.router.core.model("m").waiting.count == 1
    assert bench.sample("serve_app_queue_depth", band="interactive") == 1


async def test_end_of_a_wait_is_counted_in_the_band_of_the_request(bench: Bench) -> None:
    stream = bench.router.open(GenerationRequest("r", "m", Prompt(text="hi"), priority=Priority.BATCH))
    await stream.aclose()

    assert bench.sample("serve_app_queue_outcomes_total", band="batch", outcome="cancelled") == 1
