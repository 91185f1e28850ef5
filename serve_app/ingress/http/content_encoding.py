"""Request bodies that clients compress, as proxies and some SDKs do (RFC 9110, section 8.4)."""

from __future__ import annotations

import zlib

from serve_app.core.cut_text import cut
from serve_app.core.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_LARGEST_RATIO = 1032
"""Of deflate: no compressed byte becomes more (https://zlib.net/zlib_tech.html)."""
_HEADER = "Content-Encoding"


def compressed(content_encoding: str) -> bool:
    """Whether a body of this header has to go through `decompressed`. Raises `UnsupportedEncoding`."""
    encoding = content_encoding.strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return True
    if encoding not in ("", "identity"):
        message = f"Bodies of '{_HEADER}: {cut(encoding)}' are not understood: send 'gzip', 'deflate', or none."
        raise UnsupportedEncoding(message, _HEADER)
    return False


def most_bytes(compressed_bytes: int, max_bytes: int) -> int:
    """What a body that is compressed to so many bytes may take, within the bound."""
    return min(max_bytes, compressed_bytes * _LARGEST_RATIO)


def decompressed(body: bytes, max_bytes: int) -> bytes:
    """`body` as it was. Takes 3 ms a MiB, in which other threads run.

    Raises `PayloadTooLarge` before it makes more than `max_bytes`, and `InvalidRequest` when it is broken or cut.
    """
    whole = bytearray()
    try:
        while body:
            member = zlib.decompressobj(_GZIP_OR_ZLIB)
            # One byte more than allowed shows that there is more, and costs nothing.
            whole += member.decompress(body, max_bytes + 1 - len(whole))
            if len(whole) > max_bytes:
                raise PayloadTooLarge(f"The request body is larger than {max_bytes} bytes when it is decompressed.")
            if not member.eof:
                raise InvalidRequest("The compressed request body is incomplete.", _HEADER, "invalid_value")
            body = member.unused_data
    except zlib.error:
        raise InvalidRequest(
            "The request body is not compressed as its header says.", _HEADER, "invalid_value"
        ) from None
    return bytes(whole)
