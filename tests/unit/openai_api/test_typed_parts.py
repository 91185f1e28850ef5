"""Reasoning and tool calls in every wire format."""

from __future__ import annotations

import json
from typing import Any

from serve_app.core.events import (
    Accepted,
    ContentPart,
    Finished,
    FinishReason,
    ReasoningPart,
    StreamEvent,
    TokenDelta,
    TokenLogprob,
    ToolCallPart,
)
from serve_app.ingress.grpc.answer import AnswerWriter
from serve_app.ingress.websocket.frames import ChatFrames, PlainFrames
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.reply import Reply
from serve_app.openai_api.resumable_sse import ResumableSseWriter
from serve_app.openai_api.sse import SseWriter
from serve_app.openai_api.token_frames import TokenFrameWriter
from tests.unit.openai_api.answers import CHAT, COMPLETION, chunks

RAW = "<think>Hm.</think>It is <call>"
ANSWER: list[StreamEvent] = [
    Accepted(3),
    TokenDelta(0, 0, 1, "<think>Hm.", parts=[ReasoningPart("Hm.")]),
    TokenDelta(0, 1, 2, "</think>It is ", parts=[ReasoningPart(" Yes."), ContentPart("It is ")]),
    TokenDelta(0, 3, 1, "<call>", parts=[ToolCallPart(0, '{"in": ', "call_1", "weather")]),
    TokenDelta(0, 4, 1, "", parts=[ToolCallPart(0, '"Oslo"}'), ToolCallPart(1, "{}", "call_2", "time")]),
    Finished(0, FinishReason.TOOL_CALLS),
]


def _deltas(stream: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks(stream) for choice in chunk["choices"]]


def test_chat_chunks_tell_them_apart() -> None:
    deltas = _deltas(SseWriter(CHAT, 1, 1, False).write(ANSWER))
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning": "Hm.", "reasoning_content": "Hm."},
        {"reasoning": " Yes.", "reasoning_content": " Yes."},
        {"content": "It is "},
        {"tool_calls": [_call(0, '{"in": ', "call_1", "weather")]},
        {"tool_calls": [_call(0, '"Oslo"}')]},
        {"tool_calls": [_call(1, "{}", "call_2", "time")]},
        {},
    ]


def test_a_whole_chat_answer_has_them_beside_its_content() -> None:
    reply = Reply(CHAT, 1, 1)
    reply.read(ANSWER)
    choice = json.loads(reply.document())["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "It is ",
        "refusal": None,
        "reasoning": "Hm. Yes.",
        "reasoning_content": "Hm. Yes.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Oslo"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }


def test_an_answer_of_tool_calls_alone_has_no_content() -> None:
    reply = Reply(CHAT, 1, 1)
    reply.read([Accepted(1), *ANSWER[4:]])
    assert json.loads(reply.document())["choices"][0]["message"]["content"] is None


def test_completions_show_the_raw_text() -> None:
    stream = chunks(SseWriter(COMPLETION, 1, 1, False).write(ANSWER))
    assert "".join(chunk["choices"][0]["text"] for chunk in stream) == RAW
    reply = Reply(COMPLETION, 1, 1)
    reply.read(ANSWER)
    assert json.loads(reply.document())["choices"][0]["text"] == RAW


def test_the_id_of_a_delta_comes_with_the_last_of_its_chunks() -> None:
    body = ResumableSseWriter(CHAT, False, "s").write(ANSWER).decode()
    ids = [line.removeprefix("id: s.") for line in body.splitlines() if line.startswith("id: ")]
    assert ids == ["0", "1", "3", "4", "5"]
    frames = body.split("\n\n")
    assert ["id: " in frame for frame in frames if " Yes." in frame or "It is " in frame] == [False, True]
    assert ["id: " in frame for frame in frames if "Oslo" in frame or "call_2" in frame] == [False, True]


def test_log_probabilities_come_once_and_are_not_lost() -> None:
    tokens = [TokenLogprob("a", -1.0)]
    thought = TokenDelta(0, 0, 1, "a", logprobs=tokens, parts=[ReasoningPart("a")])
    said = TokenDelta(0, 1, 1, "bc", logprobs=tokens, parts=[ContentPart("b"), ContentPart("c")])
    written = chunks(SseWriter(CHAT, 1, 1, False).write([Accepted(1), thought, said]))
    assert [bool(chunk["choices"][0]["logprobs"]) for chunk in written] == [False, False, True, True, False]


def test_sockets_have_a_message_for_each_kind() -> None:
    messages = [json.loads(message) for message in ChatFrames("a", "r").write(ANSWER)]
    assert [message["type"] for message in messages] == [
        "accepted", "reasoning", "reasoning", "token", "tool_call", "tool_call", "tool_call", "done",
    ]  # fmt: skip
    assert messages[3]["content"] == "It is "
    assert messages[4] | {"position": 4} == messages[4]
    assert messages[4]["arguments"] == '{"in": '


def test_formats_of_text_alone_show_the_content_only() -> None:
    assert json.loads(PlainFrames(None).write(ANSWER)[0])["content"] == "It is "
    message = AnswerWriter("a", lambda: 0.0).write(ANSWER)
    assert message is not None and message.token == "It is " and message.position == 5
    assert chunks(TokenFrameWriter().write(ANSWER))[2]["token"] == "It is "


def test_all_tokens_count_whatever_they_mean() -> None:
    for writer in (SseWriter(CHAT, 1, 1, True), ResumableSseWriter(CHAT, True, "s"), Reply(CHAT, 1, 1)):
        writer.read(ANSWER)
        assert (writer.usage.prompt_tokens, writer.usage.completion_tokens, writer.position) == (3, 5, 5)


def _call(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"index": index, "function": function} | ({} if call_id is None else {"id": call_id, "type": "function"})


def test_a_plain_stream_is_written_as_without_hooks() -> None:
    """The fast path and the hooks write the same bytes."""
    envelope: Envelope = CHAT
    plain: list[StreamEvent] = [Accepted(1), TokenDelta(0, 0, 1, "a", [1]), TokenDelta(0, 1, 1, "b", [2])]
    typed = [plain[0], plain[1], TokenDelta(0, 1, 1, "b", [2], parts=[ContentPart("b")])]
    assert SseWriter(envelope, 1, 1, False).write(plain) == SseWriter(envelope, 1, 1, False).write(typed)
    first, second = (ResumableSseWriter(envelope, False, "s").write(events) for events in (plain, typed))
    assert first == second
