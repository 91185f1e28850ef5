"""Streams that tell the usage so far in each chunk: vLLM's `stream_options.continuous_usage_stats`.

A wrapper around the writer of other streams, so that those pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve_app.core.events import StreamEvent
from serve_app.openai_api.sse import SseWriter

_encode = msgspec.json.Encoder().encode
_NO_USAGE = b'"usage":null}\n\n'
"""How a chunk ends; no text can hold it, since JSON writes line breaks as escapes."""


class ContinuousUsage:
    """Writes the chunks of `writer`, which includes usage. Used by one task."""

    __slots__ = ("_writer",)

    def __init__(self, writer: SseWriter) -> None:
        self._writer = writer

    @property
    def begun(self) -> bool:
        """See `EventReader`."""
        return self._writer.begun

    @property
    def complete(self) -> bool:
        """See `EventReader`."""
        return self._writer.complete

    def write(self, events: Sequence[StreamEvent]) -> bytes:
        """As `SseWriter.write`, with the usage after each event."""
        return b"".join(self._write(event) for event in events)

    def closing(self) -> bytes:
        """See `SseWriter`."""
        return self._writer.closing()

    def _write(self, event: StreamEvent) -> bytes:
        chunks = self._writer.write((event,))
        return chunks.replace(_NO_USAGE, b'"usage":%b}\n\n' % _encode(self._writer.usage.document()))
