"""The parts of `/openapi.json` that belong to no single route: what the API is, its schemas, its security."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from serve_app.ingress.http.operation import BEARER, REF, Operation

_DESCRIPTION = """\
OpenAI's API over a router that queues, retries and fails over. The official SDKs work with `base_url` set to `/v1` of
this server.

Every error has the body `{"error": {"message", "type", "param", "code"}}`; an unknown path is 404 and a wrong method
405 with the same body. A stream that fails after it has begun ends with an event `error`.

WebSockets are at `/v1/ws/chat` and `/ws/chat` (docs/websocket.md), gRPC has a port of its own (docs/grpc.md): OpenAPI
describes neither.
"""
_TAGS = {
    "Chat": "Chat answers, whole or streamed.",
    "Completions": "Continuations of a text, whole or streamed.",
    "Responses": "OpenAI's Responses API: docs/responses.md.",
    "Streams": "Streams that outlive their connection: docs/streaming.md.",
    "Models": "What is served.",
    "Server": "Health, readiness, metrics and pages.",
}
ABOUT: dict[str, Any] = {
    "title": "serve_app",
    "version": "1",
    "description": _DESCRIPTION,
    "openapi_tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
}
"""Arguments of `FastAPI`."""


def complete(document: dict[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """`document`, as FastAPI makes it of the routes, with the schemas and the security that `operations` refer to."""
    bodies = {operation.body for operation in operations if operation.body is not None}
    answers = {model for operation in operations for model in operation.answers}
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in bodies]
    models += [(model, "serialization") for model in answers]
    _, schemas = models_json_schema(sorted(models, key=lambda each: each[0].__name__), ref_template=REF)
    security = {"type": "http", "scheme": "bearer", "description": "Names the tenant. Optional unless keys are set up."}
    document["components"] = {"schemas": schemas["$defs"], "securitySchemes": {BEARER: security}}
    return document
