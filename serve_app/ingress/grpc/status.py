"""From an error to what a gRPC call says of it: its status, and a message of the stream.

Details for programs are those of google.rpc (AIP-193), in the trailing metadata `grpc-status-details-bin`; the retry
advice is among them as `RetryInfo`, and once more as `grpc-retry-pushback-ms`, which gRPC's own retry policies obey
(gRFC A6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from serve_app.core.errors import ClientTooSlow, InvalidRequest, ServeAppError, StreamCancelled, StreamConflict
from serve_app.ingress.error_mapping import retry_after_ms
from serve_app.ingress.grpc.proto.generation_pb2 import Error

ERROR_DOMAIN = "serve_app"

_BY_CLASS: dict[type[ServeAppError], grpc.StatusCode] = {
    ClientTooSlow: grpc.StatusCode.ABORTED,
    StreamCancelled: grpc.StatusCode.CANCELLED,
    StreamConflict: grpc.StatusCode.ALREADY_EXISTS,
}
_BY_HTTP_STATUS: dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Trailer = tuple[str, str | bytes]


class StatusContext(Protocol):
    """What of a call's context takes its status."""

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, trailing_metadata: list[Trailer]) -> None: ...


@dataclass(frozen=True, slots=True)
class CallStatus:
    """How a call ends that failed."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[Trailer, ...]

    def put_on(self, context: StatusContext) -> None:
        """Let the call end with this status."""
        context.set_code(self.code)
        context.set_details(self.message)
        context.set_trailing_metadata(list(self.trailers))


def code_of(error: ServeAppError) -> grpc.StatusCode:
    """The status code that `error` becomes; `docs/overload.md` lists them."""
    by_class = next((_BY_CLASS[kind] for kind in type(error).__mro__ if kind in _BY_CLASS), None)
    return by_class or _BY_HTTP_STATUS.get(error.status, grpc.StatusCode.UNKNOWN)


def status_of(error: ServeAppError) -> CallStatus:
    """The status of a call that `error` ended."""
    code, wait_ms = code_of(error), retry_after_ms(error)
    status = Status(code=_number(code), message=error.message, details=_details(error, wait_ms))
    trailers: list[Trailer] = [("grpc-status-details-bin", status.SerializeToString())]
    if wait_ms is not None:
        trailers += [("retry-after-ms", str(wait_ms)), ("grpc-retry-pushback-ms", str(wait_ms))]
    elif not error.retryable:
        trailers.append(("grpc-retry-pushback-ms", "-1"))
    return CallStatus(code, error.message, tuple(trailers))


def error_message(error: ServeAppError) -> Error:
    """`error` as a message of a stream."""
    return Error(
        code=_error_code(error),
        message=error.message,
        param=_param(error) or "",
        status=_number(code_of(error)),
        retryable=error.retryable,
        retry_after_ms=retry_after_ms(error) or 0,
    )


def _details(error: ServeAppError, wait_ms: int | None) -> list[AnyMessage]:
    messages: list[object] = [ErrorInfo(reason=_error_code(error).upper(), domain=ERROR_DOMAIN)]
    if wait_ms is not None:
        messages.append(RetryInfo(retry_delay=Duration(seconds=wait_ms // 1000, nanos=wait_ms % 1000 * 1_000_000)))
    if (param := _param(error)) is not None:
        violation = BadRequest.FieldViolation(field=param, description=error.message)
        messages.append(BadRequest(field_violations=[violation]))
    packed = []
    for message in messages:
        detail = AnyMessage()
        detail.Pack(message)
        packed.append(detail)
    return packed


def _error_code(error: ServeAppError) -> str:
    return (error.error_code if isinstance(error, InvalidRequest) else None) or error.code


def _param(error: ServeAppError) -> str | None:
    return error.param if isinstance(error, InvalidRequest) else None


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
