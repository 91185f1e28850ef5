"""The chat page at `/`: serves the files in files/ as they are, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.files import File, file_response
from serve_app.ingress.http.operation import Operation
from serve_app.ingress.http.parameters import in_path
from serve_app.openai_api.answer_schema import ErrorBody

FOLDER = Path(__file__).parent / "files"

PAGE = "index.html"
FILES = {
    PAGE: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "page.js": "text/javascript; charset=utf-8",
    "conversation.js": "text/javascript; charset=utf-8",
    "exchange_view.js": "text/javascript; charset=utf-8",
    "serve_app_client.js": "text/javascript; charset=utf-8",
}
"""Content type by name. The last one is the JavaScript client, for which the page is an example."""

PAGE_OPERATION = Operation("getPage", "Server", "Give the chat page", text=FILES[PAGE], others={304: None})
FILE_OPERATION = Operation(
    "getPageFile",
    "Server",
    "Give a file of the chat page",
    parameters=(in_path("name", f"One of `{'`, `'.join(FILES)}`."),),
    text="*/*",
    others={304: None, 404: ErrorBody},
)


def add_web_page_routes(api: Api, context: ApiContext) -> None:
    """Add `/` and the page's files at `/web/…`."""
    routes = _Routes(context)
    api.route_to("/", routes.page, "GET", PAGE_OPERATION, head=True, open_to_all=True)
    api.route_to("/web/{name}", routes.file, "GET", FILE_OPERATION, head=True, open_to_all=True)


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def page(self, request: Request) -> Response:
        """The page. Its addresses are relative, so that it works below any prefix that ends in a slash."""
        return self._answer(request, PAGE)

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(404)
        return self._answer(request, name)

    def _answer(self, request: Request, name: str) -> Response:
        return file_response(request, _read(name), self.context.reply_headers(request))


@cache
def _read(name: str) -> File:
    return File.of((FOLDER / name).read_bytes(), FILES[name])
