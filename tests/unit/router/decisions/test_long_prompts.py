"""Prompts that do not fit the context window, and those that take long to render. The window has 2,048 tokens."""

from __future__ import annotations

import pytest

from serve_app.core.errors import ContextLengthExceeded
from serve_app.resilience.circuit_breaker import BreakerState
from serve_app.telemetry.reasons import RequeueReason
from tests.unit.router.decisions.driven_core import DrivenCore

WINDOW = 2048


@pytest.mark.parametrize("deadline", [None, 0.001, 100.0])
@pytest.mark.parametrize("busy", [False, True])
def test_what_certainly_does_not_fit_is_refused_at_once_whatever_else_holds(deadline: float | None, busy: bool) -> None:
    core = DrivenCore("a", capacity=1, admission={"bands": {"default": {"requests": 1}}})
    if busy:
        core.begin(1)
        core.offer(2)

    core.offer(3, tokens=5_000_000, least_tokens=WINDOW, deadline=deadline)

    error = core.failed[3].error
    assert isinstance(error, ContextLengthExceeded)
    assert "at least 2048 tokens" in error.message
    assert core.failed[3].refusal is None
    assert 3 not in core.model.streams
    assert 3 not in core.running


def test_what_may_fit_goes_to_an_engine_that_will_tell() -> None:
    core = DrivenCore("a")
    core.offer(1, tokens=5_000_000, least_tokens=WINDOW - 1)
    assert core.running[1].engine_id == "a"
    assert core.model.streams[1].prompt_tokens == WINDOW


def test_without_a_known_window_nothing_is_refused_for_its_length() -> None:
    core = DrivenCore()
    core.offer(1, tokens=5_000_000, least_tokens=5_000_000)
    assert core.failed == {}


def test_an_answer_is_waited_for_as_long_as_the_prompt_may_take_to_render() -> None:
    core = DrivenCore("a", "b", accept_timeout_s=2, accept_timeout_per_ktoken_s=1)
    core.offer(1, tokens=2000)
    core.tick(3.9)
    assert core.withdrawn == []
    core.tick(4.0)
    assert core.reasons(1) == [RequeueReason.NOT_ACCEPTED]


def test_prompts_that_nobody_answers_open_no_breaker() -> None:
    core = DrivenCore("a", "b", "c", capacity=8)
    for stream_id in range(1, 5):
        core.offer(stream_id, tokens=1000)
    for tenth in range(320):
        core.now = tenth / 10
        if tenth % 5 == 0:
            for engine in "abc":
                core.report(engine, stepped=True)
        core.tick(core.now)
        assert all(
            state.breaker is BreakerState.CLOSED and not state.ejected
            for state in core.model.policies.snapshot(core.now)
        )
