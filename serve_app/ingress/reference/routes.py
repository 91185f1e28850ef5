"""`/openapi.json`, and `/docs`, the page that shows it and tries it out: Swagger UI, all of it from this server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.files import CONTENT_SECURITY_POLICY, File, file_response

FOLDER = Path(__file__).parent / "files"
PAGE = "docs.html"
OURS = {PAGE: "text/html; charset=utf-8", "docs.js": "text/javascript; charset=utf-8"}
SWAGGER_UI = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
"""Files of the package fastapi-offline, which brings those of swagger-ui-dist."""
_POLICY = f"{CONTENT_SECURITY_POLICY}; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
"""Swagger UI's style sheet holds its icons, and some of its parts bring their own style."""


def add_reference_routes(api: Api, context: ApiContext) -> None:
    """Add `/openapi.json`, `/docs`, and the page's files at `/docs/…`. They describe `api` with all its routes."""
    routes = _Routes(api, context)
    api.route_to("/openapi.json", routes.document, "GET", head=True, open_to_all=True)
    api.route_to("/docs", routes.page, "GET", head=True, open_to_all=True)
    api.route_to("/docs/{name}", routes.file, "GET", head=True, open_to_all=True)


@dataclass(frozen=True, slots=True)
class _Routes:
    api: Api
    context: ApiContext
    documents: dict[str, File] = field(default_factory=dict)
    """By the path below which the API is served."""

    async def document(self, request: Request) -> Response:
        """The description of this API in OpenAPI's form."""
        root = request.scope.get("root_path", "")
        if root not in self.documents:
            # A quarter of a second of work, once: not on the loop that every stream needs.
            self.documents[root] = await asyncio.to_thread(self._document, root)
        return file_response(request, self.documents[root], self.context.reply_headers(request))

    async def page(self, request: Request) -> Response:
        """The page. Its addresses are relative, so that it works below any prefix."""
        return file_response(request, _read(PAGE), self.context.reply_headers(request))

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["name"]
        if name not in OURS and name not in SWAGGER_UI:
            raise HTTPException(404)
        return file_response(request, _read(name), self.context.reply_headers(request))

    def _document(self, root: str) -> File:
        document = self.api.openapi()
        if root:
            document = {**document, "servers": [{"url": root}]}
        return File.of(json.dumps(document, separators=(",", ":")).encode(), "application/json")


@cache
def _read(name: str) -> File:
    if name in OURS:
        return File.of((FOLDER / name).read_bytes(), OURS[name], _POLICY)
    return File.of((_swagger_ui() / name).read_bytes(), SWAGGER_UI[name], _POLICY)


def _swagger_ui() -> Path:
    package = find_spec("fastapi_offline")  # found, not imported: only its files are of use
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "static"
