"""Turns tokens into text that may be shown: whole characters only, and nothing that may belong to a stop string."""

from __future__ import annotations

from serve_app.engine.simulated.vocabulary import PIECES, TEXTS


class StopStrings:
    """Looks for stop strings in text that comes in pieces, holding back what may still become one."""

    __slots__ = ("_held", "_stops", "found")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found: str | None = None
        """The stop string that occurred first, once one has."""

    def push(self, text: str) -> str:
        """The text that may be shown now. Once `found` is set, it ends before the stop string."""
        text = self._held + text
        matches = [(text.index(stop), stop) for stop in self._stops if stop in text]
        if matches:
            begin, self.found = min(matches, key=lambda match: match[0])
            self._held = ""
            return text[:begin]
        held = max(_open_suffix(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, when the output ends for another reason."""
        held, self._held = self._held, ""
        return held


def _open_suffix(text: str, stop: str) -> int:
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Detokenizer:
    """Text of one choice's tokens as they come; a character belongs to the token that completes it."""

    __slots__ = ("_open",)

    def __init__(self, open_bytes: bytes = b"") -> None:
        self._open = open_bytes

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        text = TEXTS[token]
        if text is not None and not self._open:
            return text
        data = self._open + PIECES[token]
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                self._open = data
                return ""
            text = data.decode(errors="replace")
        self._open = b""
        return text
