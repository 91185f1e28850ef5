"""Server-sent events out of bytes that arrive in any pieces."""

from __future__ import annotations

from dataclasses import dataclass

_MAX_EVENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One dispatched event."""

    data: str
    event: str = "message"
    id: str | None = None
    """Its own `id` line; None when it had none."""
    retry_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SseComment:
    """A comment line, without its colon and spaces around it."""

    text: str


class SseReader:
    """Parses one response body. Pure; fed by one reader.

    Source: HTML Standard, section 9.2.6 "Interpreting an event stream"; but events keep their own ids, and comments are
    shown, as ours tell the place in the queue. An event that the connection's end cut off is not dispatched.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._skip_line_feed = False
        self._size = 0
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None
        self._retry_ms: int | None = None

    def feed(self, data: bytes) -> list[SseEvent | SseComment]:
        """What `data` completed, in order. Raises `ValueError` for an event above 16 MiB."""
        if self._skip_line_feed and data:
            data = data.removeprefix(b"\n")
        self._skip_line_feed = data.endswith(b"\r") if data else self._skip_line_feed
        self._size += len(data)
        if self._size > _MAX_EVENT_BYTES:
            raise ValueError("the server sent an event that is too long")
        lines = (self._partial + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._partial = lines.pop()
        found: list[SseEvent | SseComment] = []
        for line in lines:
            if not line:
                self._dispatch(found)
            elif line.startswith(b":"):
                found.append(SseComment(line[1:].decode("utf-8", "replace").strip()))
            else:
                self._field(line.decode("utf-8", "replace"))
        if not self._data:
            self._size = len(self._partial)
        return found

    def _dispatch(self, found: list[SseEvent | SseComment]) -> None:
        if self._data:
            found.append(SseEvent("\n".join(self._data), self._event or "message", self._id, self._retry_ms))
        self._data, self._event, self._id, self._retry_ms = [], "", None, None

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry_ms = int(value)
