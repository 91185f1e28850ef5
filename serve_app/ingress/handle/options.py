"""What another actor says of a request beside its body: the keyword arguments of a call by Serve handle, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import ANONYMOUS_TENANT, Priority
from serve_app.ingress.identity import Identity
from serve_app.ingress.request_context import MAX_DEADLINE_S, Urgency
from serve_app.ingress.resume.stream_id import NAME

_NAMES = ("idempotency_key", "priority", "tenant", "timeout_s")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Who asks, how urgently, and by which name the call may be repeated."""

    identity: Identity
    urgency: Urgency
    idempotency_key: str | None


def read_options(options: Mapping[str, Any]) -> CallOptions:
    """Check `options`. Raises `InvalidRequest` naming the one that is wrong.

    There is no token: an actor with a handle is inside the cluster, and says for whom it asks.
    """
    if unknown := sorted(options.keys() - set(_NAMES)):
        raise InvalidRequest(f"Unknown option {unknown[0]!r}; allowed: {', '.join(_NAMES)}.", unknown[0])
    return CallOptions(
        Identity(tenant_of(options)),
        Urgency(_priority(options.get("priority", Priority.DEFAULT)), _timeout_s(options.get("timeout_s"))),
        _idempotency_key(options.get("idempotency_key")),
    )


def tenant_of(options: Mapping[str, Any]) -> str:
    """The tenant for whom an actor asks. Raises `InvalidRequest`."""
    tenant = options.get("tenant", ANONYMOUS_TENANT)
    if not isinstance(tenant, str) or NAME.fullmatch(tenant) is None:
        raise _wrong("tenant", "it must be 1 to 255 printable ASCII characters")
    return tenant


def _priority(value: Any) -> Priority:
    try:
        return Priority(value)
    except ValueError:
        raise _wrong("priority", f"it must be one of {', '.join(Priority)}") from None


def _timeout_s(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_DEADLINE_S:
        raise _wrong("timeout_s", f"it must be a number of seconds above 0, at most {MAX_DEADLINE_S}")
    return float(value)


def _idempotency_key(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or NAME.fullmatch(value) is None):
        raise _wrong("idempotency_key", "it must be 1 to 255 printable ASCII characters")
    return value


def _wrong(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for the option '{name}': {problem}.", name, "invalid_value")
