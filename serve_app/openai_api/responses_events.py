"""A response as OpenAI's server-sent events, numbered so that a client can go on after any of them.

The numbers follow from the stream's events alone (deltas as they came), so that whoever writes the stream again, on
any router replica, numbers it alike; comments are no events. See
https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.core.errors import ServeAppError
from serve_app.core.events import Finished, StreamEvent, TokenLogprob
from serve_app.core.request import GenerationRequest
from serve_app.openai_api.collected_answer import CollectedAnswer
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.responses_document import (
    ResponseRecord,
    Status,
    document,
    item_status,
    output_item,
    response_object,
    status_of,
    text_part,
)

_DELTA = "response.output_text.delta"
_ITEM = {"output_index": 0}


class ResponseEventWriter(CollectedAnswer):
    """Writes one response, from its beginning, as an event stream. Used by one task.

    Events up to the number `starting_after` are counted, and not written. Until there is output, or `opening` was
    called, what is written is held back: the status of the HTTP response is still open.
    """

    def __init__(self, record: ResponseRecord, request: GenerationRequest, starting_after: int = -1) -> None:
        self._record = record
        self._request = request
        self._starting_after = starting_after
        super().__init__()
        self._out: list[bytes] = []
        self._next_number = 0
        self._opened = False
        place = document({"item_id": record.message_id, **_ITEM, "content_index": 0, "logprobs": []})
        self._before_number = _head(_DELTA)
        self._before_text = b"," + place[1:-1] + b',"delta":'

    def opening(self) -> bytes:
        """The events that every response begins with; empty after the first call. Nothing is held back any more."""
        if self._opened:
            return b""
        self._opened = True
        parts: list[bytes] = []
        background = self._record.background
        self._write_response(parts, "response.created", Status.QUEUED if background else Status.IN_PROGRESS)
        if background:
            self._write_response(parts, "response.queued", Status.QUEUED)
        if self.accepted:
            self._write_response(parts, "response.in_progress", Status.IN_PROGRESS)
        return b"".join(parts)

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """The events of the API for those of the stream, ready for one send; empty when they show nothing."""
        self._out = []
        self.read(events)
        return b"".join(self._out)

    def on_accepted(self) -> None:
        """See `EventReader`."""
        if self._opened:
            self._write_response(self._out, "response.in_progress", Status.IN_PROGRESS)

    def on_begin(self) -> None:
        """See `EventReader`."""
        self._out.append(self.opening())
        item = output_item(self._record, "in_progress", None)
        self._write(self._out, "response.output_item.added", {**_ITEM, "item": item})
        self._write(self._out, "response.content_part.added", {**self._part_place(), "part": text_part("")})

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        super().on_content(choice, text, logprobs)
        if text:
            self._write_delta(self._out, text)

    def on_finished(self, event: Finished) -> None:
        """See `EventReader`."""
        super().on_finished(event)
        self._end(self._out)

    def closing(self) -> bytes:
        """What follows the last event: nothing."""
        return b""

    def failure(self, error: ServeAppError) -> bytes:
        """The last event of a response that `error` ended.

        OpenAI has none for cancelled responses: they end as incomplete ones do, with their own status.
        """
        parts = [self.opening()]
        status = status_of(self, True, error)
        kind = "response.incomplete" if status is Status.CANCELLED else "response.failed"
        self._write_response(parts, kind, status, error)
        return b"".join(parts)

    def interruption(self, error: ServeAppError) -> bytes:
        """The last event of a connection that `error` ended, while the response itself goes on.

        It repeats the number of the last event: a client that goes on after that number misses nothing.
        """
        number = max(self._next_number - 1, self._starting_after, 0)
        rest = {"sequence_number": number, "code": error.code, "message": error.message, "param": None}
        return b"event: error\ndata: " + document({"type": "error", **rest}) + b"\n\n"

    def _write_delta(self, parts: list[bytes], text: str) -> None:
        number = self._count()
        if number > self._starting_after:
            parts += (self._before_number, b"%d" % number, self._before_text, json_string(text), b"}\n\n")

    def _end(self, parts: list[bytes]) -> None:
        status = status_of(self, True, None)
        part = text_part(self.first.text)
        place = self._part_place()
        done = {**place, "text": part["text"], "logprobs": []}
        self._write(parts, "response.output_text.done", done)
        self._write(parts, "response.content_part.done", {**place, "part": part})
        item = {**output_item(self._record, item_status(status), None), "content": [part]}
        self._write(parts, "response.output_item.done", {**_ITEM, "item": item})
        self._write_response(parts, f"response.{status}", status)

    def _part_place(self) -> dict[str, Any]:
        return {"item_id": self._record.message_id, **_ITEM, "content_index": 0}

    def _write_response(
        self, parts: list[bytes], kind: str, status: Status, error: ServeAppError | None = None
    ) -> None:
        number = self._count()
        if number > self._starting_after:
            response = response_object(self._record, self._request, self, status, error)
            parts += (_head(kind), b"%d" % number, b',"response":', document(response), b"}\n\n")

    def _write(self, parts: list[bytes], kind: str, fields: dict[str, Any]) -> None:
        number = self._count()
        if number > self._starting_after:
            parts += (_head(kind), b"%d," % number, document(fields)[1:], b"\n\n")

    def _count(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number


def last_number(record: ResponseRecord, answer: CollectedAnswer, texts: int, ends_by_error: bool) -> int:
    """The number of the last event of a response that has ended, as `ResponseEventWriter` counts them. `texts` of its
    events brought text."""
    opening = 1 + record.background + answer.accepted
    ending = 4 if answer.complete else int(ends_by_error)
    return opening + (2 if answer.begun else 0) + texts + ending - 1


def _head(kind: str) -> bytes:
    return b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind.encode(), kind.encode())
