"""One gRPC call: who asks, and what its metadata says of its id, priority and deadline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.datastructures import Headers

from serve_app.ingress.grpc.status import StatusContext, Trailer
from serve_app.ingress.identity import Identity
from serve_app.ingress.request_context import Urgency, request_id_of, urgency_of

CALL_DEADLINE = "x-grpc-deadline-ms"
"""Metadata in which the server notes the call's own deadline, in milliseconds from its arrival: Serve keeps that from
its deployments."""
_SERVE_REQUEST_ID = "request_id"


class CallContext(StatusContext, Protocol):
    """What the services need of a call's context; Serve's `RayServegRPCContext` has it."""

    def invocation_metadata(self) -> Sequence[Trailer]: ...

    def trailing_metadata(self) -> Sequence[Trailer]: ...


class Call:
    """One call: who asks, how urgently, and until when. `now` is the time of its arrival in seconds."""

    def __init__(self, metadata: Headers, identity: Identity, now: float) -> None:
        """Raises `InvalidRequest` naming the metadata that is wrong."""
        self.request_id = request_id_of(metadata)
        self.identity = identity
        self.urgency: Urgency = urgency_of(metadata)
        allowed_s = _milliseconds(metadata.get(CALL_DEADLINE, ""))
        self.deadline: float | None = None if allowed_s is None else now + allowed_s
        """The time, of the clock that `now` is of, at which the client gives up."""


def headers_of(context: CallContext) -> Headers:
    """The call's metadata, those for bytes aside; `x-request-id` is that of Serve where the client sends none."""
    pairs = [(key, value) for key, value in context.invocation_metadata() if isinstance(value, str)]
    # Serve puts the id that it logs the call under, the client's own or a new one, into the trailing metadata.
    pairs += [("x-request-id", str(value)) for key, value in context.trailing_metadata() if key == _SERVE_REQUEST_ID]
    # UTF-8, as in an HTTP header: replacing what is not Latin-1 would make one tenant of different keys.
    return Headers(raw=[(key.lower().encode(), value.encode("utf-8", "surrogatepass")) for key, value in pairs])


def _milliseconds(value: str) -> float | None:
    return int(value) / 1000 if value.isascii() and value.isdecimal() else None
