"""Reads a request body within its bounds of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from serve_app.core.cut_text import cut
from serve_app.core.errors import InvalidRequest, PayloadTooLarge
from serve_app.ingress.bytes_under_way import Claim
from serve_app.ingress.http.content_encoding import compressed, decompressed, most_bytes
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.long_work import in_thread


@asynccontextmanager
async def json_body(context: ApiContext, request: Request) -> AsyncIterator[bytes]:
    """For the block that makes a request of the body, decompressed: its bytes are accounted until the block ends.

    Raises `InvalidRequest` when it is not JSON by its header, too slow, or broken; `PayloadTooLarge`; `RouterBusy` when
    the router reads too much at once.
    """
    config = context.config
    _check_content_type(request)
    is_compressed = compressed(request.headers.get("content-encoding", ""))
    with context.under_way.claim() as claim:
        body = await _received(request, claim, config.max_body_bytes, config.body_timeout_s)
        if is_compressed:
            claim.hold(len(body) + most_bytes(len(body), config.max_body_bytes))
            body = await in_thread(lambda: decompressed(body, config.max_body_bytes))
            claim.hold(len(body))
        yield body


def _check_content_type(request: Request) -> None:
    # A page of any site may send a body without this header, unasked: only a declared JSON makes browsers ask first.
    default = "none" if "origin" in request.headers else "application/json"
    content_type = request.headers.get("content-type", default).partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        message = f"Send the header 'Content-Type: application/json' (got '{cut(content_type)}')."
        raise InvalidRequest(message, "Content-Type", "invalid_content_type")


async def _received(request: Request, claim: Claim, max_bytes: int, timeout_s: float) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                if len(body) + len(part) > max_bytes:
                    raise _too_large(max_bytes)
                claim.hold(len(body) + len(part))
                body += part
    except TimeoutError:
        message = f"The request body did not arrive within {timeout_s:g} seconds."
        raise InvalidRequest(message, None, "request_timeout") from None
    return bytes(body)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {max_bytes} bytes.")
