"""Stream events, and errors among them."""

from __future__ import annotations

import pytest

from serve_app.core.errors import ContextLengthExceeded, EngineLost, NoEngineAvailable, QueueFull, ServeAppError
from serve_app.core.events import Failed, TokenDelta, TokenLogprob
from serve_app.core.failures import error_of, failed_by


def test_a_delta_is_cut_at_a_token_and_keeps_its_text() -> None:
    logprobs = [TokenLogprob("", -1.0), TokenLogprob("", -2.0), TokenLogprob("é", -3.0)]
    delta = TokenDelta(0, 4, 3, "é", [1, 2, 3], logprobs)
    assert delta.end == 7
    assert delta.rest(4) is delta
    assert delta.rest(6) == TokenDelta(0, 6, 1, "é", [3], logprobs[2:])


def test_a_delta_without_token_ids_is_cut_by_its_count() -> None:
    assert TokenDelta(0, 4, 3, "abc").rest(5) == TokenDelta(0, 5, 2, "abc")


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthExceeded("Too long.", "prompt"),
        QueueFull("Full.", 7.5),
        NoEngineAvailable("None.", 2.0),
        EngineLost("Gone."),
    ],
)
def test_an_error_crosses_the_channel_with_its_field_and_its_advice(error: ServeAppError) -> None:
    told = error_of(failed_by(error))
    assert type(told) is type(error)
    assert told.args[:2] == error.args[:2]


def test_an_unknown_code_is_an_internal_error() -> None:
    assert error_of(Failed("no_such_code", "What?")).code == "internal_error"
