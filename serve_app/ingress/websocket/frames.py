"""Typed stream events as WebSocket messages, JSON text each; docs/websocket.md has the protocol.

As in event streams, everything in a token's message but its text and position is encoded once per request. All tokens
that come together make one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from serve_app.core.errors import ServeAppError
from serve_app.core.events import Finished, StreamEvent, TokenLogprob, ToolCallPart
from serve_app.ingress.error_mapping import retry_after_ms
from serve_app.openai_api.errors import document_of
from serve_app.openai_api.event_reader import EventReader
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.logprobs import chat_logprobs

_encode = msgspec.json.Encoder().encode


class Frames(Protocol):
    """Writes one answer of one choice. Used by one task."""

    @property
    def accepted(self) -> bool:
        """Whether an engine has taken the request, after which it has no place in the queue."""

    @property
    def complete(self) -> bool:
        """Whether the answer has ended."""

    def write(self, events: Sequence[StreamEvent]) -> list[str]:
        """The messages for `events`; none when they show nothing."""

    def queued(self, position: int | None) -> list[str]:
        """That the request waits behind `position` others; None when its place is not known."""

    def cancelled(self) -> list[str]:
        """That the client's cancellation ended it."""

    def failed(self, error: ServeAppError) -> list[str]:
        """That `error` ended it."""


class ChatFrames(EventReader):
    """The messages of `/v1/ws/chat` about the request that the client calls `client_id`.

    `from_token` is the position that a resuming client has; `stream_id` is told where the stream can be resumed.
    """

    def __init__(self, client_id: str, request_id: str, stream_id: str | None = None, from_token: int = 0) -> None:
        super().__init__(seen=from_token)
        self._id = json_string(client_id).decode()
        self._before = f'{{"type":"token","id":{self._id},"content":'
        self._told = {"request_id": request_id} | ({"stream_id": stream_id} if stream_id else {})
        self._messages: list[str] = []
        self._text = ""
        self._logprobs: list[TokenLogprob] = []

    def write(self, events: Sequence[StreamEvent]) -> list[str]:
        """See `Frames`. A token's position is the number of output tokens that the client then need not get again."""
        messages: list[str] = []
        self._messages = messages
        self.read(events)
        self._end_token()
        return messages

    def on_accepted(self) -> None:
        """See `EventReader`."""
        self._messages.append(self._message("accepted", **self._told))

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        self._text += text
        if logprobs is not None:
            self._logprobs += logprobs

    def on_reasoning(self, choice: int, text: str) -> None:
        """See `EventReader`."""
        self._end_token()
        self._messages.append(self._message("reasoning", content=text, position=self.position))

    def on_tool_call(self, choice: int, part: ToolCallPart) -> None:
        """See `EventReader`."""
        self._end_token()
        call = {"index": part.index, "call_id": part.call_id, "name": part.name, "arguments": part.arguments}
        self._messages.append(self._message("tool_call", **call, position=self.position))

    def on_finished(self, event: Finished) -> None:
        """See `EventReader`."""
        self._end_token()
        self._messages.append(self._ending(event.reason, event.stop_reason))

    def queued(self, position: int | None) -> list[str]:
        """See `Frames`."""
        return [] if position is None else [self._message("queued", position=position, **self._told)]

    def cancelled(self) -> list[str]:
        """See `Frames`."""
        self._unfinished = 0
        return [self._ending("cancelled", None)]

    def failed(self, error: ServeAppError) -> list[str]:
        """See `Frames`."""
        return [error_message(error, self._id)]

    def _end_token(self) -> None:
        """All text that came together is one message."""
        if self._text or self._logprobs:
            more = f',"logprobs":{_dumps(chat_logprobs(self._logprobs))}' if self._logprobs else ""
            self._messages.append(f'{self._before}{_json(self._text)},"position":{self.position}{more}}}')
            self._text, self._logprobs = "", []

    def _ending(self, reason: str, stop_reason: str | int | None) -> str:
        usage = self.usage.document()
        return self._message("done", finish_reason=reason, stop_reason=stop_reason, usage=usage)

    def _message(self, kind: str, **fields: Any) -> str:
        return f'{{"type":"{kind}","id":{self._id},{_dumps(fields)[1:]}'


class PlainFrames(EventReader):
    """The messages of `/ws/chat`, as its first clients expect them; each carries `client_id` if the prompt had one."""

    def __init__(self, client_id: str | None) -> None:
        super().__init__()
        self._id = None if client_id is None else json_string(client_id).decode()
        self._named = "" if self._id is None else f',"id":{self._id}'
        self._text = ""

    def write(self, events: Sequence[StreamEvent]) -> list[str]:
        """See `Frames`."""
        self._text = ""
        was_complete = self.complete
        self.read(events)
        messages = [f'{{"type":"token","content":{_json(self._text)}{self._named}}}'] if self._text else []
        if self.complete and not was_complete:
            messages.append(f'{{"type":"done"{self._named}}}')
        return messages

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        self._text += text

    def queued(self, position: int | None) -> list[str]:
        """See `Frames`."""
        return []

    def cancelled(self) -> list[str]:
        """See `Frames`."""
        return []

    def failed(self, error: ServeAppError) -> list[str]:
        """See `Frames`."""
        return [error_message(error, self._id)]


def error_message(error: ServeAppError, quoted_id: str | None = None) -> str:
    """OpenAI's error object, and whether and when the same may be tried again. With an id it ends that request."""
    named = "" if quoted_id is None else f'"id":{quoted_id},'
    body = document_of(error).decode()[1:-1]
    retryable = "true" if error.retryable else "false"
    wait_ms = retry_after_ms(error)
    wait = "" if wait_ms is None else f',"retry_after_ms":{wait_ms}'
    return f'{{"type":"error",{named}{body},"retryable":{retryable}{wait}}}'


def pong(client_id: str | None) -> str:
    """The answer to a ping."""
    return '{"type":"pong"}' if client_id is None else f'{{"type":"pong","id":{_json(client_id)}}}'


def _json(text: str) -> str:
    return json_string(text).decode()


def _dumps(document: Any) -> str:
    return _encode(document).decode()
