"""An answer as server-sent events that a client can go on reading where it was cut.

Each event that brings text carries `id: <stream>.<position>`, the number of output tokens whose text the client then
has, for its `Last-Event-ID` (https://html.spec.whatwg.org/multipage/server-sent-events.html).
A writer of its own, so that streams without ids pay nothing for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.sse import SseWriter


class ResumableSseWriter(SseWriter):
    """Writes one answer of one choice. Used by one task."""

    __slots__ = ("_event_id",)

    def __init__(
        self,
        envelope: Envelope,
        include_usage: bool,
        stream_id: str,
        seen: int | None = None,
        text_offset: int = 0,
    ) -> None:
        """`seen` is the position in tokens up to which the client has the answer, and with it what comes before the
        first token; None when it has nothing. `text_offset` (characters) is what a completion's log-probabilities
        count from at that position."""
        super().__init__(envelope, 1, 1, include_usage)
        self._event_id = b"id: " + stream_id.encode() + b".%d\n"
        if seen is not None:
            self._opening = b""
            self._usage.completion_tokens = seen
            self._offsets[0] = text_offset
        elif self._opening:
            self._opening = self._event_id % 0 + self._opening

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """As `SseWriter.write`, with ids."""
        parts: list[bytes] = []
        for event in events:
            if isinstance(event, TokenDelta):
                if not self.begun:
                    self._begin(parts)
                tokens = event.count
                event_id = self._event_id % (event.index + tokens)
                if (
                    event.logprobs is None
                ):  # what most streams are made of is written here: `write` once more costs a µs
                    self._usage.completion_tokens += tokens
                    if event.text:
                        parts += (event_id, self._before[0], json_string(event.text), self._after)
                    continue
                parts.append(event_id)
            parts.append(super().write((event,)))
        return b"".join(parts)
