from __future__ import annotations

import json
from typing import Any

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.openai_api.token_frames import TokenFrameWriter

END = Finished(0, FinishReason.LENGTH)


def frames(body: bytes) -> list[Any]:
    """As the source documents' clients read them: lines that begin with `data: `."""
    data = [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(item) if item != "[DONE]" else item for item in data]


def test_each_token_is_a_frame_and_the_end_is_told_twice() -> None:
    writer = TokenFrameWriter()
    body = writer.write([Accepted(1, [1]), TokenDelta(0, 0, 1, "안녕", [5]), TokenDelta(0, 1, 1, '"\n', [6])])
    assert not writer.complete
    body += writer.write([END]) + writer.closing()
    assert writer.complete
    assert frames(body) == [
        {"token": "안녕", "done": False},
        {"token": '"\n', "done": False},
        {"token": "", "done": True},
        "[DONE]",
    ]


def test_there_are_as_many_frames_as_tokens_whatever_their_text() -> None:
    events: list[StreamEvent] = [TokenDelta(0, 3, 3, "ab", [1, 2, 3]), TokenDelta(0, 6, 1, "", [4])]
    body = TokenFrameWriter().write(events)
    assert [frame["token"] for frame in frames(body)] == ["", "", "ab", ""]


def test_the_id_of_a_frame_is_the_offset_after_it() -> None:
    body = TokenFrameWriter().write([TokenDelta(0, 3, 2, "ab", [1, 2]), TokenDelta(0, 5, 1, "c", [4])])
    ids = [line for line in body.decode().split("\n") if line.startswith("id: ")]
    assert ids == ["id: 4", "id: 5", "id: 6"]


def test_an_accepted_prompt_shows_nothing_and_does_not_begin_the_answer() -> None:
    writer = TokenFrameWriter()
    assert writer.write([Accepted(1, [1])]) == b""
    assert not writer.begun
    assert writer.write([TokenDelta(0, 0, 1, "", [1])]) != b""
    assert writer.begun
