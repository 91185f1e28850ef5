"""Typed stream events as OpenAI's server-sent events, at a few microseconds a token.

Everything in a chunk but the new text is encoded once per stream; a token costs one JSON string and a few
concatenations. See https://platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve_app.core.events import Accepted, Finished, StreamEvent, TokenDelta, TokenLogprob
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.json_text import escape_line_breaks, json_string
from serve_app.openai_api.logprobs import chat_logprobs, completion_logprobs
from serve_app.openai_api.parse import Endpoint
from serve_app.openai_api.usage import Usage

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


class SseWriter:
    """Writes one answer of `choices` choices as an event stream. Used by one task."""

    __slots__ = (
        "_after",
        "_before",
        "_between",
        "_envelope",
        "_finish",
        "_include_usage",
        "_offsets",
        "_opening",
        "_tail",
        "_unfinished",
        "_usage",
        "begun",
    )

    def __init__(self, envelope: Envelope, choices: int, n: int, include_usage: bool) -> None:
        endpoint = envelope.endpoint
        head = b"data: " + envelope.opening(chunk=True) + b'[{"index":'
        heads = [head + b"%d," % choice for choice in range(choices)]
        self._tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._before = [head + _BEFORE_TEXT[endpoint] for head in heads]
        self._between = _AFTER_TEXT[endpoint]
        self._after = self._between + b'null,"finish_reason":null' + self._tail
        self._finish = [head + _NO_TEXT[endpoint] + b',"finish_reason":' for head in heads]
        self._opening = b"".join(head + _ROLE + self._tail for head in heads) if endpoint is Endpoint.CHAT else b""
        self._offsets = [0] * choices
        self._unfinished = choices
        self._usage = Usage(n)
        self._envelope = envelope
        self._include_usage = include_usage
        self.begun = False
        """Whether a token or an end has been written, after which errors can only be events."""

    @property
    def complete(self) -> bool:
        """Whether every choice has ended."""
        return self._unfinished == 0

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """The chunks for `events`, ready for one send; empty when they show nothing."""
        parts: list[bytes] = []
        for event in events:
            if isinstance(event, TokenDelta):
                if not self.begun:
                    self._begin(parts)
                self._usage.completion_tokens += event.count
                if event.logprobs is not None:
                    self._write_with_logprobs(event, event.logprobs, parts)
                elif event.text:
                    parts += (self._before[event.choice], json_string(event.text), self._after)
            elif isinstance(event, Finished):
                if not self.begun:
                    self._begin(parts)
                self._usage.finished(event)
                self._unfinished -= 1
                reasons = b'"%b","stop_reason":%b' % (event.reason.encode(), _literal(event.stop_reason))
                parts += (self._finish[event.choice], reasons, self._tail)
            elif isinstance(event, Accepted):
                self._usage.accepted(event)
        return b"".join(parts)

    def closing(self) -> bytes:
        """What follows the last choice's end: the usage chunk if it was asked for, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        usage = _encode(self._usage.document())
        return b"data: " + self._envelope.opening(chunk=True) + b'[],"usage":' + usage + b"}\n\n" + DONE

    def _begin(self, parts: list[bytes]) -> None:
        self.begun = True
        parts.append(self._opening)

    def _write_with_logprobs(self, event: TokenDelta, tokens: list[TokenLogprob], parts: list[bytes]) -> None:
        choice = event.choice
        if self._envelope.endpoint is Endpoint.CHAT:
            document = chat_logprobs(tokens)
        else:
            document, self._offsets[choice] = completion_logprobs(tokens, self._offsets[choice])
        logprobs = escape_line_breaks(_encode(document)) + b',"finish_reason":null'
        parts += (self._before[choice], json_string(event.text), self._between, logprobs, self._tail)


def _literal(value: str | int | None) -> bytes:
    return json_string(value) if isinstance(value, str) else _encode(value)
