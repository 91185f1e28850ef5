"""The error vocabulary. Each class says which HTTP status it becomes and whether the request may be tried again.

    ServeAppError
    ├── InvalidRequest                 400  the request is wrong; `param` names the field
    │   ├── NotAuthenticated           401  nobody is known by the token
    │   ├── OriginNotAllowed           403  a page of another site sends it from somebody's browser
    │   ├── ContextLengthExceeded      400  prompt and output do not fit the model's context
    │   ├── ModelNotFound              404
    │   ├── StreamNotFound             404  no stream of that id is retained, or it is another tenant's
    │   ├── StreamConflict             409  a stream of that name exists, begun by another request
    │   ├── PayloadTooLarge            413
    │   └── UnsupportedEncoding        415  the body is compressed in an unknown way
    ├── Refused                             not admitted; `retry_after_s` says when to come back
    │   ├── QueueFull                  429
    │   ├── DeadlineUnattainable       429  it would be served too late to be of use
    │   ├── NoEngineAvailable          503  no engine replica can serve the model now
    │   ├── ReplicaLeaving             503  this router replica is about to be stopped: connect again
    │   └── RouterBusy                 429  the router has no memory to read the request
    ├── DeadlineExceeded               504
    ├── EngineError                         the engine could not go on
    │   ├── EngineFailed               500  it raised
    │   ├── EngineLost                 503  its replica died or left
    │   ├── ChannelLost                503  no heartbeat on the token channel
    │   ├── StreamStalled              503  no token came for too long, and no other replica took over
    │   └── NotContinuable             503  its replica was lost, and no other can go on truthfully
    ├── Rejected                            an engine replica's own no: the router tries elsewhere
    │   ├── EngineFull                 503
    │   └── WrongReplica               503
    ├── StreamCancelled                409  a kept stream was cancelled by its owner
    ├── StreamTakenOver                409  a kept stream goes on elsewhere, where somebody resumed it
    ├── ClientTooSlow                  500  never reaches the client, who does not read
    └── InternalError                  500

Errors cross processes: constructors pass all arguments positionally to `super().__init__`, so pickling keeps them.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from serve_app.core.cut_text import cut
from serve_app.core.error_codes import ErrorCode
from serve_app.core.outcome import RequestOutcome
from serve_app.core.retry_advice import LEAST_S

_MESSAGE_CHARACTERS = 1000
_PARAM_CHARACTERS = 200


class ServeAppError(Exception):
    """Base of every error that this project raises on purpose."""

    code: ClassVar[ErrorCode] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    outcome: ClassVar[RequestOutcome] = RequestOutcome.INTERNAL_ERROR

    @property
    def message(self) -> str:
        """The sentence for the client."""
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(ServeAppError):
    """The request is wrong; trying it again unchanged cannot help."""

    code: ClassVar[ErrorCode] = "invalid_value"
    status = 400
    outcome = RequestOutcome.INVALID

    def __init__(self, message: str, param: str | None = None, error_code: ErrorCode | None = None) -> None:
        # Both may repeat what the client sent, which may be megabytes long.
        super().__init__(
            cut(message, _MESSAGE_CHARACTERS), None if param is None else cut(param, _PARAM_CHARACTERS), error_code
        )

    @property
    def param(self) -> str | None:
        """Path of the field that is wrong, as `messages.0.role`."""
        return self.args[1] if len(self.args) > 1 else None

    @property
    def error_code(self) -> ErrorCode | None:
        """OpenAI's `error.code` where it is more specific than the class, as `unknown_parameter`."""
        return self.args[2] if len(self.args) > 2 else None


class NotAuthenticated(InvalidRequest):
    """The client presents no token, or one by which nobody is known. The message never contains the token."""

    code = "invalid_api_key"
    status = 401


class OriginNotAllowed(InvalidRequest):
    """A page of another site sends the request from somebody's browser."""

    code = "origin_not_allowed"
    status = 403


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output do not fit the model's context window."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """No model of that name is served."""

    code = "model_not_found"
    status = 404


class StreamNotFound(InvalidRequest):
    """No stream of that id is retained (any more), or it belongs to another tenant."""

    code = "stream_not_found"
    status = 404


class StreamConflict(InvalidRequest):
    """A stream of that name exists already; resume it instead."""

    code = "stream_conflict"
    status = 409


class PayloadTooLarge(InvalidRequest):
    """The request body is larger than configured."""

    code = "payload_too_large"
    status = 413


class UnsupportedEncoding(InvalidRequest):
    """The request body is compressed in a way that is not understood."""

    code = "unsupported_content_encoding"
    status = 415


class Refused(ServeAppError):
    """Not admitted. Nothing was computed; come back after `retry_after_s` seconds."""

    code: ClassVar[ErrorCode] = "refused"
    status = 503
    retryable = True

    def __init__(self, message: str, retry_after_s: float = LEAST_S) -> None:
        super().__init__(message, retry_after_s)

    @property
    def retry_after_s(self) -> float:
        """Seconds after which a retry has a chance, jitter included."""
        return float(self.args[1]) if len(self.args) > 1 else LEAST_S


class QueueFull(Refused):
    """The bounded waiting queue has no place."""

    code = "queue_full"
    status = 429
    outcome = RequestOutcome.QUEUE_FULL


class DeadlineUnattainable(Refused):
    """The wait ahead would outlast the request's deadline, or the objective for its first token."""

    code = "deadline_unattainable"
    status = 429
    outcome = RequestOutcome.DEADLINE_UNATTAINABLE


class NoEngineAvailable(Refused):
    """No engine replica can serve the model at present."""

    code = "no_engine_available"
    status = 503
    outcome = RequestOutcome.NO_ENGINE


class ReplicaLeaving(Refused):
    """The router replica of this connection is about to be stopped. A new connection leads to another one."""

    code = "replica_leaving"
    status = 503
    outcome = RequestOutcome.NO_ENGINE


class RouterBusy(Refused):
    """The router holds as many bytes of requests that are being read as it may."""

    code = "router_busy"
    status = 429
    outcome = RequestOutcome.QUEUE_FULL


class DeadlineExceeded(ServeAppError):
    """The request's deadline passed."""

    code = "deadline_exceeded"
    status = 504
    outcome = RequestOutcome.DEADLINE_EXCEEDED


class EngineError(ServeAppError):
    """The engine could not go on with a generation."""

    code: ClassVar[ErrorCode] = "engine_error"
    outcome = RequestOutcome.ENGINE_FAILED


class EngineFailed(EngineError):
    """The engine raised."""

    code = "engine_failed"


class EngineLost(EngineError):
    """The engine's replica died or was removed."""

    code = "engine_lost"
    status = 503
    retryable = True


class ChannelLost(EngineError):
    """The token channel to the engine went silent."""

    code = "channel_lost"
    status = 503
    retryable = True


class StreamStalled(EngineError):
    """No token came for longer than the stall timeout, and no other replica took over."""

    code = "stream_stalled"
    status = 503
    retryable = True
    outcome = RequestOutcome.STREAM_STALLED


class NotContinuable(EngineError):
    """The output broke off, and no other replica can go on with it truthfully."""

    code = "not_continuable"
    status = 503
    retryable = True
    outcome = RequestOutcome.NOT_CONTINUABLE


class Rejected(ServeAppError):
    """An engine replica's own no. The router puts the request back at the head of the queue; it costs no retry."""

    code: ClassVar[ErrorCode] = "rejected"
    status = 503
    retryable = True


class EngineFull(Rejected):
    """The engine replica runs as many generations as it may."""

    code = "engine_full"


class WrongReplica(Rejected):
    """Serve delivered the call to another replica than the one picked."""

    code = "wrong_replica"


class StreamCancelled(ServeAppError):
    """Its owner cancelled the kept stream."""

    code = "stream_cancelled"
    status = 409
    outcome = RequestOutcome.CANCELLED


class StreamTakenOver(ServeAppError):
    """Another reader resumed the kept stream at another router replica, where it goes on."""

    code = "stream_taken_over"
    status = 409
    outcome = RequestOutcome.CANCELLED


class ClientTooSlow(ServeAppError):
    """The client reads more slowly than its buffer bound allows."""

    code = "client_too_slow"
    outcome = RequestOutcome.CLIENT_TOO_SLOW


class InternalError(ServeAppError):
    """A defect of ours."""


E = TypeVar("E", bound=ServeAppError)


def fresh(error: E) -> E:
    """A copy of `error` without traceback and cause: raise it where one error is kept and raised again and again.

    Each raise adds the raiser's frames to the traceback, and these hold all of its local variables for as long as the
    error is kept.
    """
    return type(error)(*error.args)


def prompt_too_long(max_model_len: int, tokens: str, param: str | None = None) -> ContextLengthExceeded:
    """The error for a prompt of so many `tokens`, in OpenAI's words."""
    part = param or "prompt"
    return ContextLengthExceeded(
        f"This model's maximum context length is {max_model_len} tokens. However, your {part} resulted in {tokens} "
        f"tokens. Please reduce the length of the {part}.",
        param,
    )


def _tree(root: type[ServeAppError]) -> dict[str, type[ServeAppError]]:
    classes: dict[str, type[ServeAppError]] = {root.code: root}
    for child in root.__subclasses__():
        classes.update(_tree(child))
    return classes


_BY_CODE: dict[str, type[ServeAppError]] = {**_tree(ServeAppError), InternalError.code: InternalError}


def error_from_code(
    code: str, message: str, param: str | None = None, retry_after_s: float | None = None
) -> ServeAppError:
    """The error of that code; unknown codes become `InternalError`. Classes without a field leave it out."""
    error = _BY_CODE.get(code, InternalError)
    if issubclass(error, InvalidRequest):
        return error(message, param)
    if issubclass(error, Refused) and retry_after_s is not None:
        return error(message, retry_after_s)
    return error(message)
