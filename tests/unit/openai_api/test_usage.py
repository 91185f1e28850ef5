"""Token counts of one answer."""

from __future__ import annotations

from serve_app.core.events import Accepted, Finished, FinishReason, UsageCorrection
from serve_app.openai_api.usage import Usage


def test_prompts_are_counted_once_and_tokens_as_they_come() -> None:
    usage = Usage(2)
    usage.accepted(Accepted(3))
    usage.completion_tokens += 5
    usage.finished(Finished(0, FinishReason.STOP, cached_tokens=2))
    usage.finished(Finished(1, FinishReason.STOP, cached_tokens=2))
    assert usage.document() == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_an_engine_that_learns_the_true_counts_at_the_end_corrects_them() -> None:
    usage = Usage(1)
    usage.accepted(Accepted(10))  # an estimate
    usage.completion_tokens += 7  # pieces of text
    usage.finished(Finished(0, FinishReason.STOP, correction=UsageCorrection(prompt_tokens=-2, completion_tokens=3)))
    assert (usage.prompt_tokens, usage.completion_tokens) == (8, 10)
