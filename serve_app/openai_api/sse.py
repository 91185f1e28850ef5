"""Typed stream events as OpenAI's server-sent events, at a few microseconds a token.

Everything in a chunk but the new text is encoded once per stream; a token costs one JSON string and a few
concatenations. See https://platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve_app.core.events import Finished, StreamEvent, TokenDelta, TokenLogprob, ToolCallPart
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.event_reader import EventReader
from serve_app.openai_api.json_text import escape_line_breaks, json_string
from serve_app.openai_api.logprobs import chat_logprobs, completion_logprobs
from serve_app.openai_api.parse import Endpoint

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_encode = msgspec.json.Encoder().encode

_BEFORE_TEXT = {Endpoint.CHAT: b'"delta":{"content":', Endpoint.COMPLETION: b'"text":'}
_AFTER_TEXT = {Endpoint.CHAT: b'},"logprobs":', Endpoint.COMPLETION: b',"logprobs":'}
_NO_TEXT = {Endpoint.CHAT: b'"delta":{},"logprobs":null', Endpoint.COMPLETION: b'"text":"","logprobs":null'}
_ROLE = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'


def queued_comment(position: int) -> bytes:
    """A comment line, which clients skip, saying how many requests wait ahead."""
    return b": queued %d\n\n" % position


def error_event(document: bytes, retry_after_ms: int | None = None) -> bytes:
    """The last event of a stream that failed after it began; OpenAI's SDKs raise `APIError` on its data.

    `retry_after_ms` is told in the field that the HTML standard has for it, `retry`: the headers are gone by then.
    """
    retry = b"" if retry_after_ms is None else b"retry: %d\n" % retry_after_ms
    return b"event: error\n" + retry + b"data: " + escape_line_breaks(document) + b"\n\n"


class SseWriter(EventReader):
    """Writes one answer of `choices` choices as an event stream. Used by one task."""

    __slots__ = (
        "_after",
        "_before",
        "_between",
        "_envelope",
        "_finish",
        "_heads",
        "_include_usage",
        "_offsets",
        "_opening",
        "_out",
        "_tail",
    )

    def __init__(self, envelope: Envelope, choices: int, n: int, include_usage: bool, seen: int = 0) -> None:
        """See `EventReader` for `choices`, `n` and `seen`."""
        super().__init__(choices, n, seen)
        endpoint = envelope.endpoint
        head = b"data: " + envelope.opening(chunk=True) + b'[{"index":'
        self._heads = heads = [head + b"%d," % choice for choice in range(choices)]
        self._tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._before = [head + _BEFORE_TEXT[endpoint] for head in heads]
        self._between = _AFTER_TEXT[endpoint]
        self._after = self._between + b'null,"finish_reason":null' + self._tail
        self._finish = [head + _NO_TEXT[endpoint] + b',"finish_reason":' for head in heads]
        self._opening = b"".join(head + _ROLE + self._tail for head in heads) if endpoint is Endpoint.CHAT else b""
        self._offsets = [0] * choices
        self._envelope = envelope
        self._include_usage = include_usage
        self._out: list[bytes] = []

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """The chunks for `events`, ready for one send; empty when they show nothing."""
        out: list[bytes] = []
        self._out = out
        for event in events:
            # What nearly all streams are made of is written here: the hooks would cost a microsecond a token.
            if self.begun and type(event) is TokenDelta and event.logprobs is None and event.parts is None:
                self.usage.completion_tokens += event.count
                if event.text:
                    out += (self._before[event.choice], json_string(event.text), self._after)
            else:
                self.read((event,))
        return b"".join(out)

    def closing(self) -> bytes:
        """What follows the last choice's end: the usage chunk if it was asked for, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        usage = _encode(self.usage.document())
        return b"data: " + self._envelope.opening(chunk=True) + b'[],"usage":' + usage + b"}\n\n" + DONE

    def on_begin(self) -> None:
        """See `EventReader`."""
        self._out.append(self._opening)

    def on_delta(self, event: TokenDelta) -> None:
        """See `EventReader`. A completion shows the text as it is."""
        if self._envelope.endpoint is Endpoint.COMPLETION:
            self.on_content(event.choice, event.text, event.logprobs)
        else:
            super().on_delta(event)

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        if logprobs is not None:
            self._write_with_logprobs(choice, text, logprobs)
        elif text:
            self._out += (self._before[choice], json_string(text), self._after)

    def on_reasoning(self, choice: int, text: str) -> None:
        """See `EventReader`. Clients read one name of the field or the other."""
        shown = json_string(text)
        self._write_delta(choice, b'"reasoning":%b,"reasoning_content":%b' % (shown, shown))

    def on_tool_call(self, choice: int, part: ToolCallPart) -> None:
        """See `EventReader`."""
        function = {} if part.name is None else {"name": part.name}
        named = {} if part.call_id is None else {"id": part.call_id, "type": "function"}
        call = {"index": part.index, **named, "function": {**function, "arguments": part.arguments}}
        self._write_delta(choice, b'"tool_calls":[' + escape_line_breaks(_encode(call)) + b"]")

    def on_finished(self, event: Finished) -> None:
        """See `EventReader`."""
        reasons = b'"%b","stop_reason":%b' % (event.reason.encode(), _literal(event.stop_reason))
        self._out += (self._finish[event.choice], reasons, self._tail)

    def _write_delta(self, choice: int, fields: bytes) -> None:
        self._out += (self._heads[choice], b'"delta":{', fields, b"}", self._after[1:])

    def _write_with_logprobs(self, choice: int, text: str, tokens: list[TokenLogprob]) -> None:
        if self._envelope.endpoint is Endpoint.CHAT:
            document = chat_logprobs(tokens)
        else:
            document, self._offsets[choice] = completion_logprobs(tokens, self._offsets[choice])
        logprobs = escape_line_breaks(_encode(document)) + b',"finish_reason":null'
        self._out += (self._before[choice], json_string(text), self._between, logprobs, self._tail)


def _literal(value: str | int | None) -> bytes:
    return json_string(value) if isinstance(value, str) else _encode(value)
