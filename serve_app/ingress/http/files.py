"""Answers with files that never change while the server runs: pages, their scripts and styles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
"""Nothing from elsewhere runs, is loaded, or frames the page; nothing runs that is written in the page itself."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Asked for each time, answered with 304 as long as nothing has changed.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    """Content and what is said of it; made once in a process."""

    content: bytes
    content_type: str
    tag: str
    policy: str

    @staticmethod
    def of(content: bytes, content_type: str, policy: str = CONTENT_SECURITY_POLICY) -> File:
        """A file with its entity tag; `policy` says what a page may load."""
        return File(content, content_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"', policy)


def file_response(request: Request, file: File, headers: Mapping[str, str]) -> Response:
    """`file`, or 304 to whoever has it."""
    headers = {**_HEADERS, "content-security-policy": file.policy, "etag": file.tag, **headers}
    known = (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(","))
    if file.tag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, 200, headers, file.content_type)
