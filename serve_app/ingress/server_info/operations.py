"""What `/openapi.json` says of models, health, readiness and metrics."""

from __future__ import annotations

from serve_app.core.errors import ModelNotFound
from serve_app.ingress.http.operation import KNOWN_ERRORS, Operation
from serve_app.ingress.http.parameters import in_path
from serve_app.openai_api.answer_schema import Health, Model, ModelList, Readiness

LIST_MODELS = Operation("listModels", "Models", "List the served models", answer=ModelList, errors=KNOWN_ERRORS)
GET_MODEL = Operation(
    "getModel",
    "Models",
    "Describe a model",
    parameters=(in_path("model_id", "`id` of the model; it may contain slashes."),),
    answer=Model,
    errors=(*KNOWN_ERRORS, ModelNotFound),
)
HEALTH = Operation("getHealth", "Server", "Tell whether the process is alive", answer=Health)
READY = Operation(
    "getReadiness",
    "Server",
    "Tell whether a request would be admitted",
    answer=Readiness,
    others={503: Readiness},
)


def metrics_operation(content_type: str) -> Operation:
    """The operation that gives metrics as `content_type`."""
    return Operation("getMetrics", "Server", "Give Prometheus metrics of all replicas", text=content_type)
