"""Cross-origin requests from browsers: the answer to a preflight, and the headers that let a page read an answer.

See https://fetch.spec.whatwg.org/#http-cors-protocol. There are no cookies, so that credentials are never allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from serve_app.core.cut_text import cut
from serve_app.core.errors import OriginNotAllowed
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.origin import foreign_origin

_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,4096}")
_MAX_AGE_S = 600
"""Seconds for which a browser does not ask again: most cap it near there."""


def preflight_response(context: ApiContext, request: Request, methods: Iterable[str]) -> Response:
    """The answer to OPTIONS on a path that takes `methods`. Raises `OriginNotAllowed`.

    An allowed page may send any header: SDKs have dozens of their own, and an origin is trusted or not.
    """
    refuse_foreign_origin(request.headers, context.config.allowed_origins)
    headers = {**context.reply_headers(request), "Allow": ", ".join([*methods, "OPTIONS"])}
    if "origin" in request.headers and "access-control-request-method" in request.headers:
        headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        headers["Access-Control-Max-Age"] = str(_MAX_AGE_S)
        asked = request.headers.get("access-control-request-headers", "")
        if _HEADER_NAMES.fullmatch(asked):
            headers["Access-Control-Allow-Headers"] = asked
    return Response(status_code=204, headers=headers)


def refuse_foreign_origin(headers: Headers, allowed: Set[str]) -> None:
    """Raise `OriginNotAllowed` for the request of a page that may not use this server."""
    if (origin := foreign_origin(headers, allowed)) is not None:
        raise origin_error(origin)


def origin_error(page: str) -> OriginNotAllowed:
    """Tells whoever reads it in a browser's console what to configure."""
    return OriginNotAllowed(f"Pages of {cut(page)} may not use this server: see 'ingress.allowed_origins'.", "Origin")
