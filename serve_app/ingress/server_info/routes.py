"""The routes that tell of the server: its models, whether it lives and would admit, and its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from serve_app.core.interfaces import ModelCard
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.server_info.operations import GET_MODEL, HEALTH, LIST_MODELS, READY, metrics_operation
from serve_app.openai_api.model_list import model_document, model_list_document

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def add_server_info_routes(api: Api, context: ApiContext) -> None:
    """Add `/v1/models` and what is below it, `/health`, `/ready` and `/metrics`."""
    routes = _Routes(context)
    api.route_to("/v1/models", routes.list_models, "GET", LIST_MODELS, head=True)
    api.route_to("/v1/models/{model_id:path}", routes.get_model, "GET", GET_MODEL, head=True)
    api.route_to("/health", routes.health, "GET", HEALTH, head=True, open_to_all=True)
    api.route_to("/ready", routes.ready, "GET", READY, head=True, open_to_all=True)
    api.route_to("/metrics", routes.metrics, "GET", metrics_operation(_METRICS_TYPE), head=True, open_to_all=True)


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def list_models(self, request: Request) -> Response:
        """The served models."""
        return self._json(request, model_list_document(self._models(request)))

    async def get_model(self, request: Request) -> Response:
        """One served model."""
        return self._json(request, model_document(self._models(request), request.path_params["model_id"]))

    async def health(self, request: Request) -> Response:
        """Whether the process is alive; it says nothing about engines."""
        return self._json(request, b'{"status":"ok"}')

    async def ready(self, request: Request) -> Response:
        """Whether a request would be admitted now."""
        if self.context.get_router().can_admit():
            return self._json(request, b'{"status":"ready"}')
        return self._json(request, b'{"status":"not ready"}', 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics of all replicas."""
        text = await self.context.get_router().metrics_text()
        return Response(text, 200, self.context.reply_headers(request), _METRICS_TYPE)

    def _models(self, request: Request) -> list[ModelCard]:
        return self.context.identity(request).visible(self.context.get_router().models())

    def _json(self, request: Request, document: bytes, status: int = 200) -> Response:
        return Response(document, status, self.context.reply_headers(request), "application/json")
