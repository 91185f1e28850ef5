"""What `/openapi.json` says of one route: its request, its answers, and the errors that it may answer with.

    LIST_MODELS = Operation("listModels", "Models", "List the served models", answer=ModelList, errors=READING_ERRORS)

Declared beside the route and read only when somebody asks for the document: serving a request never looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from serve_app.core.errors import (
    ClientTooSlow,
    InternalError,
    NotAuthenticated,
    OriginNotAllowed,
    PayloadTooLarge,
    Refused,
    Rejected,
    ReplicaLeaving,
    RouterBusy,
    ServeAppError,
    UnsupportedEncoding,
)
from serve_app.ingress.http.errors import REPEATED_BY_SDKS
from serve_app.ingress.http.parameters import REQUEST_ID, Parameter
from serve_app.openai_api.answer_schema import ErrorBody

REF = "#/components/schemas/{model}"
JSON = "application/json"
EVENT_STREAM = "text/event-stream"

_INSIDE = (Rejected, ClientTooSlow, ReplicaLeaving, OriginNotAllowed)
"""Errors that routes do not answer with: a router tries elsewhere, the client does not read, only connections that stay
get them, or only the routes that say so."""


def errors_below(root: type[ServeAppError]) -> tuple[type[ServeAppError], ...]:
    """`root` and all classes below it that may become an answer."""
    if issubclass(root, _INSIDE) or root.__module__ != ServeAppError.__module__:  # nor those that others add
        return ()
    found = [root]
    for child in root.__subclasses__():
        if child.__module__ == ServeAppError.__module__:  # the channel's own never leave it
            found += errors_below(child)
    return tuple(found)


ALL_ERRORS = errors_below(ServeAppError)
"""Whatever offers a request with a body to the router may answer with any of them."""
_OF_BODIES = (PayloadTooLarge, RouterBusy, UnsupportedEncoding)
STREAM_ERRORS = tuple(error for error in ALL_ERRORS if not issubclass(error, _OF_BODIES))
"""The same without a body: reading a stream tells what became of its request."""
OPEN_ERRORS = (InternalError,)
"""Any handler may fail; one that is open to everybody fails in no other way."""
KNOWN_ERRORS = (NotAuthenticated, InternalError)


@dataclass(frozen=True, slots=True)
class Operation:
    """The description of one method of one path. Text in Markdown; the handler's docstring is the description."""

    id: str
    """Generators of clients name their functions after it."""
    tag: str
    summary: str
    body: type[BaseModel] | None = None
    """Model of the JSON body of the request."""
    body_examples: Mapping[str, Any] = field(default_factory=dict)
    """Bodies by name, which `/docs` offers to send."""
    parameters: tuple[Parameter, ...] = ()
    answer: type[BaseModel] | None = None
    """Model of a JSON answer with status 200."""
    events: tuple[type[BaseModel], ...] = ()
    """Models of the data of an event stream with status 200: each event has one of them."""
    ends_with_done: bool = False
    """The data of the last event is `[DONE]`, and no JSON."""
    text: str | None = None
    """Content type of an answer with status 200 that is neither JSON nor an event stream."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of an answer that follows an offer to the router, an error or not, with what they say."""
    others: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    """Statuses of answers that are neither 200 nor an error, with the model of their body."""
    errors: tuple[type[ServeAppError], ...] = OPEN_ERRORS

    @property
    def answers(self) -> tuple[type[BaseModel], ...]:
        """Every model that an answer may have."""
        whole = [self.answer, *self.events, *self.others.values()]
        return (*(model for model in whole if model is not None), ErrorBody)

    def responses(self) -> dict[int | str, dict[str, Any]]:
        """The answers, in the form that FastAPI takes."""
        content: dict[str, Any] = {}
        if self.answer is not None:
            content[JSON] = {"schema": ref(self.answer)}
        if self.events:
            content[EVENT_STREAM] = self._event_stream()
        if self.text is not None:
            content[self.text] = {"schema": {"type": "string"}}
        found: dict[int | str, dict[str, Any]] = {
            200: {"description": "Done.", "headers": _headers(self.headers), "content": content}
        }
        for status, model in self.others.items():
            described: dict[str, Any] = {"description": _OTHERS[status], "headers": _headers({})}
            found[status] = described | ({} if model is None else {"content": {JSON: {"schema": ref(model)}}})
        for status, answer in _error_responses(self.errors, self.headers).items():
            if status in found:  # as /ready's own 503
                own = found[status]["content"][JSON]["schema"]
                answer["content"] = {JSON: {"schema": {"anyOf": [own, ref(ErrorBody)]}}}
            found[status] = answer
        return found

    def extra(self, open_to_all: bool) -> dict[str, Any]:
        """The rest of the operation, which FastAPI takes as it is."""
        extra: dict[str, Any] = {"parameters": [*self.parameters, REQUEST_ID]}
        if not open_to_all:
            extra["security"] = [{BEARER: []}, {}]
        if self.body is not None:
            examples = {name: {"value": value} for name, value in self.body_examples.items()}
            extra["requestBody"] = {
                "required": True,
                "content": {JSON: {"schema": ref(self.body), "examples": examples}},
            }
        return extra

    def _event_stream(self) -> dict[str, Any]:
        data = {"anyOf": [ref(model) for model in self.events]}
        event = {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "string", "contentMediaType": JSON, "contentSchema": data},
                "event": {"type": "string"},
                "id": {"type": "string"},
                "retry": {"type": "integer", "minimum": 0},
            },
            "additionalProperties": False,
        }
        # `itemSchema` is OpenAPI 3.2's; FastAPI describes its own event streams so, too.
        return {"itemSchema": {"anyOf": [event, DONE_EVENT]} if self.ends_with_done else event}


BEARER = "bearer"
"""Name of the security scheme."""
DONE_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"const": "[DONE]"}, "event": {"const": "message"}, "id": {"type": "string"}},
    "additionalProperties": False,
}
"""The last event of OpenAI's older APIs. Readers see its name as `message`, and the id of the event before it."""
_OTHERS = {
    404: "Nothing of that name.",
    304: "Not changed since the answer with this `ETag`.",
    503: "Not now.",
}
_RETRY_HEADERS = {
    "x-should-retry": "`true` when trying again can help. OpenAI's SDKs obey it.",
    "Retry-After": "Seconds to wait, 1 to 60, with jitter; only when the request was refused.",
    "retry-after-ms": "The same in milliseconds, not rounded.",
}


def ref(model: type[BaseModel]) -> dict[str, Any]:
    """A reference to `model` in the document."""
    return {"$ref": REF.format(model=model.__name__)}


def _error_responses(
    errors: Iterable[type[ServeAppError]], after_offer: Mapping[str, str]
) -> dict[int, dict[str, Any]]:
    codes: dict[int, set[str]] = {}
    refused = {error.status for error in errors if issubclass(error, Refused)}
    for error in errors:
        codes.setdefault(error.status, set()).add(error.code)
    return {
        status: {
            "description": f"Error `{'`, `'.join(sorted(codes[status]))}`.",
            "headers": _headers({**after_offer, **_retry_headers(status, status in refused)}),
            "content": {JSON: {"schema": ref(ErrorBody)}},
        }
        for status in sorted(codes)
    }


def _retry_headers(status: int, refused: bool) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "`Bearer`."}
    if status < 429 and status not in REPEATED_BY_SDKS:
        return {}
    return {name: text for name, text in _RETRY_HEADERS.items() if refused or name == "x-should-retry"}


def _headers(described: Mapping[str, str]) -> dict[str, Any]:
    every = {"x-request-id": "The request's id.", **described}
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in every.items()}
