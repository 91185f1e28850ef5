"""Text as a JSON string literal, safe inside one `data:` line of an event stream."""

from __future__ import annotations

import msgspec

_encode = msgspec.json.Encoder().encode

# Legal inside JSON strings, but many clients read event streams with Python's `str.splitlines`, which breaks there.
_LINE_BREAKS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def json_string(text: str) -> bytes:
    """Encode `text` with its quotes. Lone surrogates, which UTF-8 cannot hold, become U+FFFD."""
    if text.isascii():
        return _encode(text)
    try:
        literal = _encode(text)
    except UnicodeEncodeError:
        literal = _encode(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    return escape_line_breaks(literal)


def escape_line_breaks(json: bytes) -> bytes:
    """Write the Unicode line breaks in a JSON document as escapes; its meaning stays the same."""
    for character, escape in _LINE_BREAKS:
        if character in json:
            json = json.replace(character, escape)
    return json
