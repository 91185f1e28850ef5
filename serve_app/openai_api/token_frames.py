"""The plainest event stream: `data: {"token": "...", "done": false}` for each token, then `"done": true` and `[DONE]`.

A client counts the frames it has to say where it goes on, so that there is exactly one for each output token, also for
those that complete no character: their text comes in the frame of the token that does. The count is the event's id as
well: a browser's `EventSource` then reconnects at the right place by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.events import StreamEvent, TokenDelta, TokenLogprob
from serve_app.openai_api.event_reader import EventReader
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.sse import DONE

_FRAME = b'id: %d\ndata: {"token": %b, "done": false}\n\n'
_LAST = b'data: {"token": "", "done": true}\n\n' + DONE


class TokenFrameWriter(EventReader):
    """Writes one answer of one choice. Used by one task."""

    __slots__ = ("_frames", "_text")

    def __init__(self) -> None:
        super().__init__()
        self._frames: list[bytes] = []
        self._text = ""

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """The frames for `events`, ready for one send; empty when they show nothing."""
        self._frames = []
        self.read(events)
        return b"".join(self._frames)

    def on_delta(self, event: TokenDelta) -> None:
        """See `EventReader`."""
        self._text = ""
        super().on_delta(event)
        self._frames += (_FRAME % (count, b'""') for count in range(event.index + 1, event.end))
        self._frames.append(_FRAME % (event.end, json_string(self._text)))

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        self._text += text

    def closing(self) -> bytes:
        """What follows the last token."""
        return _LAST
