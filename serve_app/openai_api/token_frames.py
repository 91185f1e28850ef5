"""The plainest event stream: `data: {"token": "...", "done": false}` for each token, then `"done": true` and `[DONE]`.

A client counts the frames it has to say where it goes on, so that there is exactly one for each output token, also for
those that complete no character: their text comes in the frame of the token that does. The count is the event's id as
well: a browser's `EventSource` then reconnects at the right place by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.events import Finished, StreamEvent, TokenDelta
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.sse import DONE

_FRAME = b'id: %d\ndata: {"token": %b, "done": false}\n\n'
_LAST = b'data: {"token": "", "done": true}\n\n' + DONE


class TokenFrameWriter:
    """Writes one answer of one choice. Used by one task."""

    __slots__ = ("begun", "complete")

    def __init__(self) -> None:
        self.begun = False
        """Whether a token or an end has been written, after which errors can only be events."""
        self.complete = False
        """Whether the answer has ended."""

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """The frames for `events`, ready for one send; empty when they show nothing."""
        frames: list[bytes] = []
        for event in events:
            if isinstance(event, TokenDelta):
                self.begun = True
                end = event.end
                frames += (_FRAME % (count, b'""') for count in range(event.index + 1, end))
                frames.append(_FRAME % (end, json_string(event.text)))
            elif isinstance(event, Finished):
                self.begun = self.complete = True
        return b"".join(frames)

    def closing(self) -> bytes:
        """What follows the last token."""
        return _LAST
