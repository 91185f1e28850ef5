from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta, TokenLogprob
from serve_app.core.interfaces import Skipped
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.resumable_sse import ResumableSseWriter
from serve_app.openai_api.sse import SseWriter
from tests.unit.openai_api.answers import CHAT, COMPLETION

ANSWER: list[StreamEvent] = [
    Accepted(3, [1, 2, 3]),
    TokenDelta(0, 0, 1, "Gr", [10]),
    TokenDelta(0, 1, 1, "", [11]),
    TokenDelta(0, 2, 2, "üß", [12, 13]),
    TokenDelta(0, 4, 1, " Gott", [14]),
    TokenDelta(0, 5, 1, "", [15]),
    Finished(0, FinishReason.STOP, None, 2),
]


def written(writer: SseWriter, events: list[StreamEvent]) -> str:
    return (b"".join(writer.write([event]) for event in events) + writer.closing()).decode()


def ids_and_data(body: str) -> list[tuple[str | None, Any]]:
    """Of each event."""
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("id"), data if data == "[DONE]" else json.loads(data)))
    return found


def rest_from(position: int) -> list[StreamEvent]:
    """What a router gives to a reader who has `position` tokens."""
    rest: list[StreamEvent] = []
    for event in ANSWER:
        if isinstance(event, TokenDelta) and event.index < position:
            if event.end > position:
                rest.append(event.rest(position))
        else:
            rest.append(event)
    return rest


@pytest.mark.parametrize("envelope", [CHAT, COMPLETION])
@pytest.mark.parametrize("include_usage", [True, False])
def test_ids_are_all_that_a_whole_answer_has_more(envelope: Envelope, include_usage: bool) -> None:
    plain = written(SseWriter(envelope, 1, 1, include_usage), ANSWER)
    resumable = written(ResumableSseWriter(envelope, include_usage, "S"), ANSWER)
    assert "".join(line for line in resumable.splitlines(True) if not line.startswith("id: ")) == plain


def test_the_id_of_an_event_counts_the_tokens_whose_text_the_client_then_has() -> None:
    events = ids_and_data(written(ResumableSseWriter(CHAT, False, "S"), ANSWER))
    assert [event_id for event_id, _ in events] == ["S.0", "S.1", "S.4", "S.5", None, None]


def test_all_events_of_one_write_have_their_own_ids() -> None:
    writer = ResumableSseWriter(COMPLETION, False, "S")
    events = ids_and_data((writer.write(ANSWER) + writer.closing()).decode())
    assert [event_id for event_id, _ in events] == ["S.1", "S.4", "S.5", None, None]


@pytest.mark.parametrize("envelope", [CHAT, COMPLETION])
def test_what_follows_any_event_is_exactly_what_a_resumed_answer_brings(envelope: Envelope) -> None:
    whole = ids_and_data(written(ResumableSseWriter(envelope, True, "S"), ANSWER))
    resumable_at = [index for index, (event_id, _) in enumerate(whole) if event_id is not None]
    assert len(resumable_at) == (4 if envelope is CHAT else 3)
    for index in resumable_at:
        event_id = whole[index][0]
        assert event_id is not None
        position = int(event_id.removeprefix("S."))
        rest = written(ResumableSseWriter(envelope, True, "S", Skipped(position, 0)), rest_from(position))
        assert ids_and_data(rest) == whole[index + 1 :]


def test_usage_counts_the_whole_answer_wherever_it_is_resumed() -> None:
    for position in range(7):
        rest = ids_and_data(written(ResumableSseWriter(CHAT, True, "S", Skipped(position, 0)), rest_from(position)))
        assert rest[-2][1]["usage"] == {
            "prompt_tokens": 3,
            "completion_tokens": 6,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 2},
        }


def test_a_stream_resumed_after_its_last_token_brings_its_end_alone() -> None:
    (_, end), (_, done) = ids_and_data(written(ResumableSseWriter(CHAT, False, "S", Skipped(6, 0)), rest_from(6)))
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["choices"][0]["delta"] == {}
    assert done == "[DONE]"


def test_an_event_of_log_probabilities_alone_moves_the_position_and_offsets_go_on() -> None:
    token = TokenDelta(0, 3, 1, "", [7], [TokenLogprob("x", -0.5)])
    body = ResumableSseWriter(COMPLETION, False, "S", Skipped(3, 11)).write([token]).decode()
    ((event_id, chunk),) = ids_and_data(body)
    assert event_id == "S.4"
    assert chunk["choices"][0]["logprobs"]["text_offset"] == [11]
