"""Who asks, and what they may: decided once for each request or socket, by an `Authenticator`, for every protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from starlette.datastructures import Headers

from serve_app.core.errors import ModelNotFound
from serve_app.core.interfaces import ModelCard
from serve_app.core.request import ANONYMOUS_TENANT, Priority


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request of this identity may take at most; None means no limit of its own."""

    max_output_tokens: int | None = None
    """Output tokens of each choice. A request that names no number gets this one."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. Everything that serves a request gets this instead of its headers:

    identity = context.identity(request)
    answer = await router.look_up(key, identity.tenant)
    """

    tenant: str = ANONYMOUS_TENANT
    """The name by which the router shares capacity, keeps streams apart, and writes logs. Never the token itself."""
    priority_ceiling: Priority = Priority.INTERACTIVE
    """The most urgent band: a request that asks for more gets this one."""
    models: frozenset[str] | None = None
    """The models that exist for this identity; None means all."""
    limits: Limits = field(default_factory=Limits)

    def visible(self, models: Sequence[ModelCard]) -> list[ModelCard]:
        """Those of `models` that exist for this identity."""
        return [card for card in models if self.models is None or card.id in self.models]

    def default_model(self, models: Sequence[ModelCard]) -> str:
        """The model of a request that names none. Raises `ModelNotFound` when none exists for this identity."""
        visible = self.visible(models)
        if not visible:
            raise ModelNotFound("No model is served to you.", "model")
        return visible[0].id

    def priority(self, asked: Priority) -> Priority:
        """The priority of a request that asks for `asked`."""
        order = list(Priority)
        return max(asked, self.priority_ceiling, key=order.index)


class Authenticator(Protocol):
    """Tells who presents a token. One object serves all protocols; it is pickled into the router replicas."""

    def identify(self, token: str | None) -> Identity:
        """The identity behind `token`; None when a client presents none. Safe to call concurrently; does not block.

        Raises `NotAuthenticated`, whose message must not contain the token.
        """


class AnyToken:
    """Accepts everybody. Clients with the same token are one tenant; clients without a token are another one."""

    def identify(self, token: str | None) -> Identity:
        """See `Authenticator.identify`."""
        if token is None:
            return Identity()
        # Any text, also what is no valid Unicode: a token is only ever compared.
        return Identity(hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:16])


def bearer_token(headers: Headers) -> str | None:
    """The token of `Authorization: Bearer TOKEN`; None without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return clean_token(_as_text(token)) if scheme.lower() == "bearer" else None


def clean_token(token: str) -> str | None:
    """`token` without the spaces around it; None when nothing is left."""
    return token.strip() or None


def _as_text(value: str) -> str:
    """Header values arrive as Latin-1. A token in UTF-8 is then the same as in a JSON message."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
