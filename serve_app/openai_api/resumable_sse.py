"""An answer as server-sent events that a client can go on reading where it was cut.

Each event that brings text carries `id: <stream>.<position>`, the number of output tokens whose text the client then
has, for its `Last-Event-ID` (https://html.spec.whatwg.org/multipage/server-sent-events.html).
A writer of its own, so that streams without ids pay nothing for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve_app.core.events import StreamEvent, TokenDelta
from serve_app.core.interfaces import Skipped
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.parse import Endpoint
from serve_app.openai_api.sse import SseWriter


class ResumableSseWriter(SseWriter):
    """Writes one answer of one choice. Used by one task."""

    __slots__ = ("_event_id",)

    def __init__(
        self,
        envelope: Envelope,
        include_usage: bool,
        stream_id: str,
        skipped: Skipped | None = None,
    ) -> None:
        """`skipped` is what the client has of the answer, with all that comes before the first token; None when it has
        nothing."""
        super().__init__(envelope, 1, 1, include_usage, 0 if skipped is None else skipped.tokens)
        self._event_id = b"id: " + stream_id.encode() + b".%d\n"
        if skipped is not None:
            self._opening = b""
            self._offsets[0] = skipped.characters
        elif self._opening:
            self._opening = self._event_id % 0 + self._opening

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """As `SseWriter.write`, with ids."""
        out: list[bytes] = []
        self._out = out
        for event in events:
            if self.begun and type(event) is TokenDelta and event.logprobs is None and event.parts is None:
                tokens = event.count
                self.usage.completion_tokens += tokens
                if event.text:
                    event_id = self._event_id % event.position
                    out += (event_id, self._before[0], json_string(event.text), self._after)
            else:
                self.read((event,))
        return b"".join(out)

    def on_delta(self, event: TokenDelta) -> None:
        """See `EventReader`. Only the last chunk of a delta has its id: who has an id has all of the tokens."""
        parts = event.parts or []
        if len(parts) > 1 and self._envelope.endpoint is Endpoint.CHAT:
            super().on_delta(replace(event, parts=parts[:-1], logprobs=None))
            event = replace(event, parts=parts[-1:])
        if event.text or event.parts or event.logprobs is not None:
            self._out.append(self._event_id % event.position)
        super().on_delta(event)
