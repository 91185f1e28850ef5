"""Text as a JSON string literal, safe inside one `data:` line of an event stream."""

from __future__ import annotations

import re

import msgspec

_encode = msgspec.json.Encoder().encode

# Legal inside JSON strings, but many clients read event streams with Python's `str.splitlines`, which breaks there.
_ESCAPES = {"\x85": b"\\u0085", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}
_needs_escape = re.compile("[\x85\u2028\u2029\ud800-\udfff]").search


def json_string(text: str) -> bytes:
    """Encode `text` with its quotes. Lone surrogates, which UTF-8 cannot hold, become U+FFFD."""
    if text.isascii() or _needs_escape(text) is None:
        return _encode(text)
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return escape_line_breaks(_encode(whole))


def escape_line_breaks(json: bytes) -> bytes:
    """Write the Unicode line breaks in a JSON document as escapes; its meaning stays the same."""
    for character, escape in _ESCAPES.items():
        json = json.replace(character.encode(), escape)
    return json
