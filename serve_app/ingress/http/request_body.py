"""Reads a request body within its bounds of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from serve_app.core.cut_text import cut
from serve_app.core.errors import InvalidRequest, PayloadTooLarge


async def read_json_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body. Raises `PayloadTooLarge`, or `InvalidRequest` when it is not JSON by its header or too slow."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        message = f"Send the header 'Content-Type: application/json' (got '{cut(content_type)}')."
        raise InvalidRequest(message, "Content-Type", "invalid_content_type")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        message = f"The request body did not arrive within {timeout_s:g} seconds."
        raise InvalidRequest(message, None, "request_timeout") from None
    return bytes(body)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {max_bytes} bytes.")
