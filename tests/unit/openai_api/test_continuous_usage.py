from __future__ import annotations

from typing import Any

import pytest

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.interfaces import Skipped
from serve_app.openai_api.continuous_usage import ContinuousUsage
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.resumable_sse import ResumableSseWriter
from serve_app.openai_api.sse import SseWriter
from tests.unit.openai_api.answers import CHAT, COMPLETION, chunks

EVENTS: list[StreamEvent] = [
    Accepted(3, [1, 2, 3]),
    TokenDelta(0, 0, 1, "Hi", [7]),
    TokenDelta(0, 1, 2, ' "usage":null}', [8, 9]),
    Finished(0, FinishReason.STOP),
]


def counts(stream: bytes) -> list[tuple[int, int]]:
    usages: list[Any] = [chunk["usage"] for chunk in chunks(stream)]
    return [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages]


def test_each_chunk_of_a_chat_tells_the_usage_so_far() -> None:
    stream = ContinuousUsage(SseWriter(CHAT, 1, 1, True))
    body = stream.write(EVENTS) + stream.closing()
    assert counts(body) == [(3, 1), (3, 1), (3, 3), (3, 3), (3, 3)]
    assert chunks(body)[2]["choices"][0]["delta"]["content"] == ' "usage":null}'


@pytest.mark.parametrize("envelope", [CHAT, COMPLETION])
def test_but_for_the_usage_it_is_the_same_stream(envelope: Envelope) -> None:
    plain, told = SseWriter(envelope, 1, 1, True), ContinuousUsage(SseWriter(envelope, 1, 1, True))

    def without_usage(stream: bytes) -> list[Any]:
        return [{**chunk, "usage": None} for chunk in chunks(stream)]

    assert without_usage(told.write(EVENTS)) == without_usage(plain.write(EVENTS))
    assert told.begun
    assert told.complete


def test_a_resumed_stream_counts_what_the_client_has_already() -> None:
    stream = ContinuousUsage(ResumableSseWriter(CHAT, True, "s", Skipped(1, 0)))
    assert counts(stream.write([EVENTS[0], *EVENTS[2:]])) == [(3, 3), (3, 3)]
